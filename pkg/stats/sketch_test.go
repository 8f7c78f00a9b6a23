package stats

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/pb/sketchpb"
	"google.golang.org/protobuf/proto"
)

func TestSketchQuantilesAfterMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	merged := NewSketch()
	var all []float64
	for range 50 { // as many instances
		s := NewSketch()
		for range 400 {
			v := 0.05 * math.Exp(2*r.NormFloat64())
			all = append(all, v)
			if err := s.Add(v); err != nil {
				t.Fatal(err)
			}
		}
		if err := merged.Merge(s); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99, 0.999} {
		exact := all[int(q*float64(len(all)-1))]
		if got := merged.Quantile(q); math.Abs(got/exact-1) > Accuracy+1e-9 {
			t.Errorf("q%v = %v, exact %v", q, got, exact)
		}
	}
	if above := merged.CountAbove(all[15000]); math.Abs(above-4999) > 300 {
		t.Errorf("CountAbove = %v, want about 4999", above)
	}
}

func TestSketchRefusesWhatCannotBeObserved(t *testing.T) {
	for _, c := range []struct{ v, n float64 }{
		{math.NaN(), 1}, {math.Inf(1), 1}, {-1, 1}, {1, -1}, {1, math.NaN()}, {1, math.Inf(1)},
	} {
		s := NewSketch()
		if err := s.AddN(c.v, c.n); err == nil || s.Count() != 0 {
			t.Errorf("%v × %v was accepted", c.v, c.n)
		}
	}
}

func TestSketchOverTheWire(t *testing.T) {
	s := NewSketch()
	for _, v := range []float64{0, 0.001, 1, 600} {
		if err := s.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := UnmarshalSketch(raw, s.Sum())
	if err != nil {
		t.Fatal(err)
	}
	if back.Count() != 4 || back.Sum() != s.Sum() || back.Quantile(1) != s.Quantile(1) {
		t.Errorf("got count %v sum %v max %v", back.Count(), back.Sum(), back.Quantile(1))
	}
	other, err := ddsketch.NewDefaultDDSketch(0.05)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := proto.Marshal(other.ToProto())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := UnmarshalSketch(foreign, 0); !errors.Is(err, ErrSketch) {
		t.Errorf("a sketch of 5 %% accuracy: error %v, want ErrSketch", err)
	}
}

// TestUnmarshalRefusesWhatNoValuesMake: a sketch of a lying agent must not spoil the group's.
func TestUnmarshalRefusesWhatNoValuesMake(t *testing.T) {
	sound := func() *sketchpb.DDSketch {
		s := NewSketch()
		if err := s.AddN(.5, 3); err != nil {
			t.Fatal(err)
		}
		return s.dd.ToProto()
	}
	for name, spoil := range map[string]func(*sketchpb.DDSketch){
		"sound":                     func(*sketchpb.DDSketch) {},
		"negative count":            func(pb *sketchpb.DDSketch) { pb.PositiveValues.BinCounts = map[int32]float64{7: -1} },
		"negative contiguous count": func(pb *sketchpb.DDSketch) { pb.PositiveValues.ContiguousBinCounts[0] = -3 },
		"no number of values":       func(pb *sketchpb.DDSketch) { pb.PositiveValues.BinCounts = map[int32]float64{7: math.NaN()} },
		"endless count":             func(pb *sketchpb.DDSketch) { pb.PositiveValues.BinCounts = map[int32]float64{7: math.Inf(1)} },
		"counts without measure": func(pb *sketchpb.DDSketch) {
			pb.PositiveValues.BinCounts = map[int32]float64{7: mostCount, 8: mostCount}
		},
		"negative zeros":         func(pb *sketchpb.DDSketch) { pb.ZeroCount = -1 },
		"values below zero":      func(pb *sketchpb.DDSketch) { pb.NegativeValues = &sketchpb.Store{BinCounts: map[int32]float64{7: 1}} },
		"a value beyond numbers": func(pb *sketchpb.DDSketch) { pb.PositiveValues.BinCounts = map[int32]float64{math.MaxInt32: 1} },
		"bins beyond numbers":    func(pb *sketchpb.DDSketch) { pb.PositiveValues.ContiguousBinIndexOffset = math.MinInt32 },
	} {
		pb := sound()
		spoil(pb)
		raw, err := proto.Marshal(pb)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := UnmarshalSketch(raw, 1.5); errors.Is(err, ErrSketch) == (name == "sound") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestMergePackedRefuses: bytes that are broken are an error and no panic.
func TestMergePackedRefuses(t *testing.T) {
	raw := []byte("\x050\xba\xba\xba\xba0000") // a bin beyond all that the library can hold
	if err := NewSketch().MergePacked(raw, 0); !errors.Is(err, ErrSketch) {
		t.Errorf("error %v", err)
	}
}

func FuzzUnmarshalSketch(f *testing.F) {
	s := NewSketch()
	_ = s.AddN(0.5, 3)
	raw, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{})
	f.Add([]byte{0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		sk, err := UnmarshalSketch(b, 1)
		if err != nil {
			return
		}
		fresh := NewSketch()
		if err := fresh.Merge(sk); err != nil {
			t.Errorf("an accepted sketch does not merge: %v", err)
		}
		if n := fresh.Count(); n != sk.Count() || !(n >= 0 && n <= mostCount) {
			t.Errorf("%v values, merged %v", sk.Count(), n)
		}
		for _, q := range []float64{0, .5, 1} {
			if v := fresh.Quantile(q); fresh.Count() > 0 && !(v >= 0 && v <= math.MaxFloat64) {
				t.Errorf("quantile %v is %v", q, v)
			}
		}
	})
}
