package fleet

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

func sketch(t *testing.T, values ...float64) *stats.Sketch {
	t.Helper()
	s := stats.NewSketch()
	for _, v := range values {
		if err := s.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func second(t *testing.T, instance string, at int64, tokens float64, ttft ...float64) *Window {
	t.Helper()
	w := NewWindow(instance, time.Unix(at, 0))
	w.Counters[GenerationTokens] = tokens
	w.Gauges[RequestsRunning] = tokens / 10
	w.Sketches[TTFT], w.Origin[TTFT] = sketch(t, ttft...), SourceEngine
	return w
}

func TestWindowOverTheWire(t *testing.T) {
	w := second(t, "a/0", 1000, 40, 0.1, 0.2)
	w.Epoch, w.Phase, w.Serving = 7, agentv1.Phase_PHASE_PROBATION, true
	w.Sources = []*agentv1.Source{{Name: SourceEngine, AgeMs: 10}}
	pb, err := w.Proto()
	if err != nil {
		t.Fatal(err)
	}
	back, err := FromProto(pb)
	if err != nil {
		t.Fatal(err)
	}
	if !back.Start.Equal(w.Start) || back.Epoch != 7 || back.Phase != w.Phase || !back.Serving || back.Instance != "a/0" || back.Stale() {
		t.Errorf("came back as %+v", back)
	}
	if diff := cmp.Diff(w.Counters, back.Counters); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if s := back.Sketches[TTFT]; s.Count() != 2 || s.Sum() != w.Sketches[TTFT].Sum() || back.Origin[TTFT] != SourceEngine {
		t.Errorf("sketch came back with count %v, sum %v, origin %s", s.Count(), s.Sum(), back.Origin[TTFT])
	}
}

func TestFromProtoRefuses(t *testing.T) {
	for _, c := range []struct {
		says string
		pb   *agentv1.Window
	}{
		{"not an increase", &agentv1.Window{Counters: map[string]float64{"a": -1}}},
		{"not an increase", &agentv1.Window{Counters: map[string]float64{"a": math.NaN()}}},
		{"not finite", &agentv1.Window{Gauges: map[string]float64{"a": math.Inf(1)}}},
		{"sum is not finite", &agentv1.Window{Sketches: []*agentv1.Sketch{{Metric: TTFT, Sum: math.NaN()}}}},
		{"not a sketch", &agentv1.Window{Sketches: []*agentv1.Sketch{{Metric: TTFT, Ddsketch: []byte{0xff}}}}},
	} {
		if _, err := FromProto(c.pb); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: error %v, want one saying %q", c.pb, err, c.says)
		}
	}
}

func TestAggregate(t *testing.T) {
	a := NewAggregate()
	late := second(t, "a/1", 1003, 20, 0.3)
	late.Sources = []*agentv1.Source{{Stale: true}}
	late.Origin[TTFT] = SourceProbe
	for _, w := range []*Window{late, second(t, "a/0", 1000, 10, 0.1, 0.1), second(t, "a/0", 1001, 30, 0.2)} { // in any order
		if err := a.Add(w); err != nil {
			t.Fatal(err)
		}
	}
	if a.Seconds() != 4 || a.Windows != 3 || a.StaleSecs != 1 {
		t.Errorf("span %v s, %d windows, %d stale", a.Seconds(), a.Windows, a.StaleSecs)
	}
	if diff := cmp.Diff(map[string]int{"a/0": 2, "a/1": 1}, a.Instances); diff != "" {
		t.Errorf("instances (-want +got):\n%s", diff)
	}
	if a.Rate(GenerationTokens) != 15 || a.Count(TTFT) != 4 || a.Origin[TTFT] != "mixed" {
		t.Errorf("rate %v, count %v, origin %s", a.Rate(GenerationTokens), a.Count(TTFT), a.Origin[TTFT])
	}
	if q := a.Quantile(TTFT, 1); math.Abs(q/0.3-1) > stats.Accuracy {
		t.Errorf("largest ttft %v", q)
	}
	g := a.Gauges[RequestsRunning]
	if g.Mean() != 2 || g.Min != 1 || g.Max != 3 || g.Last != 2 {
		t.Errorf("gauge %+v, want mean 2, min 1, max 3 and the newest window's 2", g)
	}
	if !math.IsNaN(NewAggregate().Quantile(TTFT, .5)) || NewAggregate().Rate(GenerationTokens) != 0 {
		t.Error("an empty aggregate knows something")
	}
}

func TestBodyHash(t *testing.T) {
	body := func(engine string, settings map[string]string) string {
		return BodyHash(&agentv1.Body{Engine: engine, Settings: settings})
	}
	one := body("vllm", map[string]string{"a": "1", "b": "2"})
	if one != body("vllm", map[string]string{"b": "2", "a": "1"}) || len(one) != 64 {
		t.Errorf("the order of settings changes the hash %s", one)
	}
	for _, other := range []string{
		body("sglang", map[string]string{"a": "1", "b": "2"}), body("vllm", map[string]string{"a": "1"}),
		body("vllm", map[string]string{"a": "1", "b": "3"}), body("vllm", map[string]string{"a": "1b", "": "2"}),
	} {
		if other == one {
			t.Error("different bodies have one hash")
		}
	}
}

func FuzzFromProto(f *testing.F) {
	f.Add([]byte{0xff}, 1.0, "a")
	f.Fuzz(func(t *testing.T, raw []byte, v float64, name string) {
		w, err := FromProto(&agentv1.Window{
			Counters: map[string]float64{name: v}, Gauges: map[string]float64{name: v},
			Sketches: []*agentv1.Sketch{{Metric: name, Ddsketch: raw, Sum: v}},
		})
		if err == nil && NewAggregate().Add(w) != nil {
			t.Error("an accepted window does not merge")
		}
	})
}

// FuzzWindow: whatever a message says, a window that is taken goes on over the wire as it is, since it is
// passed on to other nodes.
func FuzzWindow(f *testing.F) {
	w := NewWindow("a/0", time.Unix(1000, 0))
	w.Counters[GenerationTokens], w.Gauges[KVUsage] = 40, .5
	w.Sketches[TTFT], w.Origin[TTFT] = stats.FromHistogram([]stats.Bucket{{Upper: .1, Count: 3}, {Upper: math.Inf(1), Count: 1}}, 1), SourceEngine
	pb, err := w.Proto()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := proto.Marshal(pb)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var pb agentv1.Window
		if proto.Unmarshal(raw, &pb) != nil {
			return
		}
		one, err := FromProto(&pb)
		if err != nil {
			return
		}
		on, err := one.Proto()
		if err != nil {
			t.Fatalf("a window that was taken cannot be passed on: %v", err)
		}
		two, err := FromProto(on)
		if err != nil {
			t.Fatalf("a window that was taken is refused by the next: %v", err)
		}
		a := NewAggregate()
		if err := errors.Join(a.Add(one), a.Add(two)); err != nil {
			t.Fatal(err)
		}
		for metric, s := range one.Sketches {
			if a.Count(metric) < s.Count() || two.Sketches[metric].Count() != s.Count() {
				t.Errorf("%s: %v values, passed on %v, together %v", metric, s.Count(), two.Sketches[metric].Count(), a.Count(metric))
			}
		}
	})
}
