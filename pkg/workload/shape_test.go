package workload

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func p95(trace []Request, of func(Request) int) float64 {
	var v []int
	for _, r := range trace {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return float64(v[len(v)*95/100])
}

func prompt(r Request) int { return r.PromptTokens }
func output(r Request) int { return r.OutputTokens }

// TestReplayOfData captures every public trace, sends the shape over the wire and replays it. What may be
// off is stated here: mean and p95 of lengths 3 and 6 %, the rate 1 %, the variation of gaps 15 %, the
// dispersion of counts 80 %, the share of prompts that a prefix cache finds .02 without limit
// and .05 at any size.
func TestReplayOfData(t *testing.T) {
	for name, read := range map[string]func(io.Reader) ([]Request, error){
		"azure_llm_2023_code.csv":                                      ReadAzureCSV,
		"azure_llm_2023_conv.csv":                                      ReadAzureCSV,
		"mooncake_conversation.jsonl":                                  ReadMooncakeJSONL,
		"llmservingsim_vllm019_RTX4090_Llama-3.1-8B_requests.jsonl":    ReadRequestLogJSONL,
		"llmservingsim_vllm019_RTXPRO6000_Llama-3.1-8B_requests.jsonl": ReadRequestLogJSONL,
		"servegen_deepseek-r1.tar.gz": func(r io.Reader) ([]Request, error) {
			g, err := ReadServeGen(r)
			if err != nil {
				return nil, err
			}
			return g.Generate(10*time.Hour, time.Hour, 1, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(dataFile(t, name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			trace, err := read(f)
			if err != nil {
				t.Fatal(err)
			}
			b, err := CaptureTrace(trace).MarshalBinary()
			if err != nil || len(b) > MaxShapeBytes {
				t.Fatalf("%d bytes (%v)", len(b), err)
			}
			var shape Shape
			if err := shape.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d requests in %d bytes", len(trace), len(b))
			replay, err := shape.Replay(1)
			if err != nil {
				t.Fatal(err)
			}
			checkReplay(t, trace, replay)
		})
	}
}

func checkReplay(t *testing.T, trace, replay []Request) {
	t.Helper()
	a, b := Summarize(trace), Summarize(replay)
	for _, c := range []struct {
		name            string
		seen, replayed  float64
		within, atLeast float64 // relative, absolute
	}{
		{"mean prompt", a.MeanPrompt, b.MeanPrompt, .03, 0},
		{"mean answer", a.MeanOutput, b.MeanOutput, .03, 0},
		{"p95 of prompts", p95(trace, prompt), p95(replay, prompt), .06, 0},
		{"p95 of answers", p95(trace, output), p95(replay, output), .06, 0},
		{"rate", a.Rate, b.Rate, .01, 0},
		{"gap CV", a.GapCV, b.GapCV, .15, 0},
		{"dispersion", a.Dispersion, b.Dispersion, .8, .3},
	} {
		if math.Abs(c.replayed-c.seen) > c.within*c.seen+c.atLeast {
			t.Errorf("%s %.3f, replayed %.3f", c.name, c.seen, c.replayed)
		}
		t.Logf("%-24s %10.3f %10.3f", c.name, c.seen, c.replayed)
	}
	for capacity, within := range map[int]float64{0: .02, 5_100_000: .05, 1_500_000: .05, 500_000: .05} {
		seen, replayed := ReuseRate(trace, capacity), ReuseRate(replay, capacity)
		t.Logf("reuse at %d tokens %.3f, replayed %.3f", capacity, seen, replayed)
		if math.Abs(seen-replayed) > within {
			t.Errorf("reuse at %d tokens %.3f, replayed %.3f", capacity, seen, replayed)
		}
	}
	if len(replay) != len(trace) {
		t.Errorf("%d requests, replayed %d", len(trace), len(replay))
	}
	checkTrace(t, replay)
}

// shared is generated traffic with bursts and common prefixes.
func shared(t *testing.T, seed uint64, count int) []Request {
	t.Helper()
	trace, err := Generate(Spec{
		Arrivals: Arrivals{Rate: 8, CV: 2}, Prompt: Quantiles{{0, 100}, {1, 3000}}, Output: Quantiles{{0, 10}, {1, 500}}, LengthCorrelation: .6,
		Shared: Shared{Groups: 3, Tokens: 96, Share: .5}, Count: count,
	}, seed)
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

func TestReplayIsReproducible(t *testing.T) {
	shape := CaptureTrace(shared(t, 1, 3000))
	one, err := shape.Replay(1)
	if err != nil {
		t.Fatal(err)
	}
	same, _ := shape.Replay(1)
	other, _ := shape.Replay(2)
	if cmp.Diff(one, same) != "" || cmp.Equal(one, other) {
		t.Error("equal seeds give equal traces, others not")
	}
	if _, err := (&Shape{}).Replay(1); !errors.Is(err, ErrSpec) {
		t.Errorf("nothing captured: %v", err)
	}
	if shape.Requests() != 3000 || !near(shape.Rate(), 8, .25) || shape.Span() < 300*time.Second {
		t.Errorf("%d requests at %.2f/s over %s", shape.Requests(), shape.Rate(), shape.Span())
	}
	if got := CaptureTrace(one).logs.correlation(); math.Abs(got-shape.logs.correlation()) > .05 {
		t.Errorf("lengths correlate by %.2f, replayed %.2f", shape.logs.correlation(), got)
	}
}

// TestReplayOfArrivals keeps the burstiness of each kind of arrivals.
func TestReplayOfArrivals(t *testing.T) {
	for name, a := range map[string]Arrivals{
		"constant": {Rate: 10, Gaps: ConstantGaps}, "Poisson": {Rate: 10}, "gamma": {Rate: 10, CV: 3}, "groups": {Rate: 10, BatchMean: 6, BatchGap: time.Millisecond},
		"profile": {Rate: 10, Profile: []RatePart{{0, 1}, {5 * time.Minute, .1}, {10 * time.Minute, 2}}},
	} {
		trace, err := Generate(Spec{Arrivals: a, Prompt: Fixed(100), Output: Fixed(10), Duration: 20 * time.Minute}, 4)
		if err != nil {
			t.Fatal(err)
		}
		replay, err := CaptureTrace(trace).Replay(9)
		if err != nil {
			t.Fatal(err)
		}
		before, after := Summarize(trace), Summarize(replay)
		if !near(after.Rate, before.Rate, .01) || math.Abs(after.GapCV-before.GapCV) > .25*before.GapCV+.6*float64(count(a.Gaps == ConstantGaps)) {
			t.Errorf("%s: rate %.2f and CV %.2f, replayed %.2f and %.2f", name, before.Rate, before.GapCV, after.Rate, after.GapCV)
		}
		if math.Abs(after.Dispersion-before.Dispersion) > .5*before.Dispersion+.3 {
			t.Errorf("%s: dispersion %.2f, replayed %.2f", name, before.Dispersion, after.Dispersion)
		}
	}
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// TestMergeOfEngines: what several engines captured of one stream has the lengths, the rate over time and
// the reuse of the whole; the order of merging does not matter.
func TestMergeOfEngines(t *testing.T) {
	trace := shared(t, 2, 6000)
	whole := CaptureTrace(trace)
	captures := []*Capture{NewCapture(), NewCapture(), NewCapture()}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, r := range trace {
		captures[rng.IntN(3)].Add(time.Unix(0, 0).Add(r.Offset), r)
	}
	merged, backwards := &Shape{}, &Shape{}
	for i := range captures {
		merged.Merge(captures[i].Shape())
		backwards.Merge(captures[2-i].Shape())
	}
	if diff := cmp.Diff(whole.arrivals.slots, merged.arrivals.slots); diff != "" || merged.requests != whole.requests {
		t.Errorf("counts over time (-whole +merged):\n%s", diff)
	}
	if diff := cmp.Diff(whole.prompt.counts, merged.prompt.counts); diff != "" {
		t.Errorf("lengths (-whole +merged):\n%s", diff)
	}
	one, err := merged.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	other, _ := backwards.MarshalBinary()
	if len(one) != len(other) || merged.requests != backwards.requests {
		t.Errorf("merged the other way round: %d bytes, %d", len(other), len(one))
	}
	replay, err := merged.Replay(3)
	if err != nil {
		t.Fatal(err)
	}
	a, b := Summarize(trace), Summarize(replay)
	if !near(b.Rate, a.Rate, .01) || !near(b.MeanPrompt, a.MeanPrompt, .03) || b.GapCV > a.GapCV*1.1 {
		t.Errorf("replayed %+v,\nseen %+v", b, a)
	}
	merged.Merge(&Shape{})
	if again, _ := merged.MarshalBinary(); cmp.Diff(one, again) != "" {
		t.Error("merging nothing changes something")
	}
}

// TestShapeStaysSmall: a year of traffic of all lengths, with all kinds of reuse, is not larger, and what is
// captured meanwhile neither.
func TestShapeStaysSmall(t *testing.T) {
	c := NewCapture()
	rng := rand.New(rand.NewPCG(5, 5))
	at := time.Unix(1_700_000_000, 0)
	for range 50_000 {
		at = at.Add(time.Duration(rng.ExpFloat64() * 600 * float64(time.Second)))
		r := Request{PromptTokens: int(math.Exp2(26 * rng.Float64())), OutputTokens: int(math.Exp2(26 * rng.Float64())), PrefixBlock: 16}
		for i := range rng.Uint64N(12) {
			r.Prefix = append(r.Prefix, rng.Uint64N(1<<40)>>rng.Uint64N(40)+i)
		}
		c.Add(at, r)
	}
	if n := len(c.seen.young) + len(c.seen.old); n > capturedBlocks {
		t.Errorf("%d blocks are remembered", n)
	}
	s := c.Shape()
	for range 40 { // as if captured 2^40 times
		s.Merge(s)
		if s.requests >= mostCount/4 {
			break
		}
	}
	b, err := s.MarshalBinary()
	if err != nil || len(b) > MaxShapeBytes {
		t.Fatalf("%d bytes (%v)", len(b), err)
	}
	var got Shape
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if len(s.arrivals.slots) > maxSlots || len(s.prompt.counts) > maxBins {
		t.Errorf("%d slots, %d bins", len(s.arrivals.slots), len(s.prompt.counts))
	}
}

func TestCaptureTakesAnything(t *testing.T) {
	c := NewCapture()
	at := time.Unix(100, 0)
	c.Add(at, Request{PromptTokens: 5, OutputTokens: 1})
	c.Add(at.Add(-time.Hour), Request{PromptTokens: 5, OutputTokens: 1}) // late
	c.Add(at, Request{PromptTokens: 5})                                  // no answer
	if s := c.Shape(); s.Requests() != 2 || s.Span() != 0 || s.Rate() != 0 {
		t.Errorf("%d requests over %s", s.Requests(), s.Span())
	}
	replay, err := c.Shape().Replay(1)
	if err != nil || len(replay) != 2 || replay[0].PromptTokens != 5 {
		t.Errorf("%+v (%v)", replay, err)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	good, err := CaptureTrace(shared(t, 1, 500)).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "another version": append([]byte{9}, good[1:]...), "cut off": good[:len(good)/2], "more": append(slices.Clone(good), 0),
		"too large": make([]byte, MaxShapeBytes+1), "other counts": append([]byte{1}, append(binary.AppendUvarint(nil, 499), good[3:]...)...),
	} {
		if err := new(Shape).UnmarshalBinary(b); !errors.Is(err, ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzShape(f *testing.F) {
	trace, err := Generate(Spec{Arrivals: Arrivals{Rate: 8}, Prompt: Fixed(100), Output: Fixed(5), Shared: Shared{Groups: 1, Tokens: 32, Share: 1}, Count: 50}, 1)
	if err != nil {
		f.Fatal(err)
	}
	b, err := CaptureTrace(trace).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Shape
		if s.UnmarshalBinary(b) != nil {
			return
		}
		again, err := s.MarshalBinary()
		if err != nil || len(again) > MaxShapeBytes {
			t.Fatalf("%d bytes (%v)", len(again), err)
		}
		if s.requests > 0 && s.requests < 2000 {
			replay, err := s.Replay(1)
			if err != nil || uint64(len(replay)) != s.requests {
				t.Fatalf("%d requests of %d (%v)", len(replay), s.requests, err)
			}
		}
	})
}
