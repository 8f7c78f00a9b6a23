package stats

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/DataDog/sketches-go/ddsketch"
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
		sk.Quantile(0.5)
	})
}
