package des

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/optiinfra/performance-agent/pkg/workload"
)

// TestMain raises the number of property checks, which take microseconds each here.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		if err := f.Value.Set("400"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// drawConfig covers all dialects with caches small enough to preempt.
func drawConfig(t *rapid.T) Config {
	return Config{
		Dialect:              Dialect(rapid.IntRange(0, 2).Draw(t, "dialect")),
		MaxNumSeqs:           rapid.IntRange(1, 12).Draw(t, "seqs"),
		MaxBatchedTokens:     rapid.IntRange(12, 200).Draw(t, "budget"),
		ChunkedPrefill:       rapid.Bool().Draw(t, "chunked"),
		PrefixCaching:        rapid.Bool().Draw(t, "caching"),
		BlockSize:            rapid.SampledFrom([]int{1, 4, 16}).Draw(t, "block"),
		KVTokens:             rapid.IntRange(64, 600).Draw(t, "kv"),
		Watermark:            rapid.SampledFrom([]float64{0, .1}).Draw(t, "watermark"),
		LongPrefillThreshold: rapid.SampledFrom([]int{0, 10}).Draw(t, "threshold"),
		ReserveFullPrompt:    rapid.Bool().Draw(t, "reserve"),
		Conservativeness:     rapid.SampledFrom([]float64{.1, 1}).Draw(t, "conservativeness"),
		WaitingServedRatio:   rapid.SampledFrom([]float64{0, 1.2}).Draw(t, "ratio"),
		AsyncScheduling:      rapid.Bool().Draw(t, "async"),
	}
}

func drawTrace(t *rapid.T) (trace []workload.Request) {
	at := time.Duration(0)
	for i := range rapid.IntRange(1, 40).Draw(t, "requests") {
		at += time.Duration(rapid.IntRange(0, 20).Draw(t, "gap")) * 2 * time.Millisecond
		trace = append(trace, workload.Request{
			Offset:       at,
			PromptTokens: rapid.IntRange(1, 150).Draw(t, "prompt"),
			OutputTokens: rapid.IntRange(1, 60).Draw(t, "output"),
			Group:        i % 3,
			GroupTokens:  32,
		})
		trace[i].GroupTokens = min(32, trace[i].PromptTokens)
	}
	return trace
}

// weighing makes a step longer with its work, in whole even milliseconds, so that half of it is exact.
var weighing = costFunc(func(s StepShape) float64 {
	return float64(2+2*s.Decoding/4+2*s.PromptTokens()/16) * 1e-3
})

// invariants checks an engine at every step of a run.
type invariants struct {
	t      *rapid.T
	engine *Engine
	tokens map[uint64]int
	newest int64 // highest id that has been admitted
}

func (v *invariants) check(_ int, start time.Duration, s Step) {
	cfg, st := v.engine.Config(), v.engine.Stats()
	if st.KVUsed > st.KVTotal || v.engine.pool.available() < 0 || v.engine.pool.free < 0 {
		v.t.Fatalf("at %s: KV used %d of %d", start, st.KVUsed, st.KVTotal)
	}
	for _, q := range v.engine.running {
		if v.engine.pool.missing(&q.holding, q.computed) > 0 {
			v.t.Fatalf("at %s: request %d has computed %d tokens into %d blocks", start, q.req.ID, q.computed, len(q.shared)+q.private)
		}
	}
	prompt := s.Shape.PromptTokens()
	switch cfg.Dialect {
	case VLLM:
		if prompt+s.Shape.Decoding > cfg.MaxBatchedTokens {
			v.t.Fatalf("at %s: %d tokens in a step of %d", start, prompt+s.Shape.Decoding, cfg.MaxBatchedTokens)
		}
		if len(s.Preempted) > 0 && len(s.Admitted) > 0 {
			v.t.Fatalf("at %s: admitted %v while preempting %v", start, s.Admitted, s.Preempted)
		}
	case TGI:
		if prompt > cfg.MaxBatchedTokens || len(s.Preempted) > 0 {
			v.t.Fatalf("at %s: %d prompt tokens, budget %d, preempted %v", start, prompt, cfg.MaxBatchedTokens, s.Preempted)
		}
	case SGLang:
		if cfg.ChunkedPrefill && prompt > cfg.MaxBatchedTokens || prompt > 0 && s.Shape.Decoding > 0 {
			v.t.Fatalf("at %s: %d prompt tokens with %d decoding, budget %d", start, prompt, s.Shape.Decoding, cfg.MaxBatchedTokens)
		}
	}
	if inStep := s.Shape.Decoding + len(s.Shape.Chunks); inStep > cfg.MaxNumSeqs && !(cfg.Dialect == TGI && cfg.ChunkedPrefill) {
		v.t.Fatalf("at %s: %d sequences in a step, limit %d", start, inStep, cfg.MaxNumSeqs)
	}
	v.firstComeFirstServed(start, s)
	for _, tok := range s.Tokens {
		if v.tokens[tok.ID]++; tok.N != v.tokens[tok.ID] || tok.First != (tok.N == 1) {
			v.t.Fatalf("at %s: request %d got token %d after %d", start, tok.ID, tok.N, v.tokens[tok.ID]-1)
		}
	}
}

// firstComeFirstServed: requests enter for the first time in the order of their ids.
func (v *invariants) firstComeFirstServed(start time.Duration, s Step) {
	for _, id := range s.Admitted {
		switch {
		case int64(id) == v.newest+1 || int64(id) > v.newest && v.refusedBetween(v.newest+1, int64(id)):
			v.newest = int64(id)
		case int64(id) > v.newest:
			v.t.Fatalf("at %s: %d was admitted before %d", start, id, v.newest+1)
		}
	}
}

// refusedBetween reports whether none of the ids in [from, to) is in the engine.
func (v *invariants) refusedBetween(from, to int64) bool {
	for id := from; id < to; id++ {
		if v.engine.byID[uint64(id)] != nil {
			return false
		}
	}
	return true
}

func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := New(drawConfig(t), weighing, 1)
		v := &invariants{t: t, engine: e, tokens: map[uint64]int{}, newest: -1}
		trace := drawTrace(t)
		result, err := Run([]*Engine{e}, trace, Options{OnStep: v.check}) // fails when a step idles over work
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		for i, o := range result.Outcomes {
			if o.Err != nil {
				continue
			}
			tokens := min(trace[i].OutputTokens, e.Config().MaxModelLen-trace[i].PromptTokens)
			want += uint64(tokens)
			if !o.Done() || o.Tokens != tokens || o.FirstToken <= o.Arrival || o.End < o.FirstToken {
				t.Fatalf("request %d: %+v, want %d tokens", i, o, tokens)
			}
		}
		st := e.Stats()
		if st.GeneratedTokens != want || st.KVUsed != 0 || st.Running != 0 || st.Waiting != 0 {
			t.Fatalf("%+v, want %d tokens and nothing left", st, want)
		}
		if p := e.pool; p.free+p.reusable != p.total {
			t.Fatalf("%d free and %d reusable blocks of %d", p.free, p.reusable, p.total)
		}
	})
}

// byText compares errors by what they say.
var byText = cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })

func TestSameSeedSameResult(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, trace := drawConfig(t), drawTrace(t)
		cfg.StepNoise = .1
		run := func() Result {
			r, err := Run([]*Engine{New(cfg, weighing, 5), New(cfg, weighing, 6)}, trace, Options{Router: LeastLoaded{}})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if diff := cmp.Diff(run(), run(), byText); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestTwiceAsFast shows that half the step time and half the gaps give exactly half of every latency.
func TestTwiceAsFast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, trace := drawConfig(t), drawTrace(t)
		half := costFunc(func(s StepShape) float64 { return weighing(s) / 2 })
		slow, err := Run([]*Engine{New(cfg, weighing, 1)}, trace, Options{})
		if err != nil {
			t.Fatal(err)
		}
		fast, err := Run([]*Engine{New(cfg, half, 1)}, workload.Scale(trace, 2), Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range slow.Outcomes {
			o := &slow.Outcomes[i]
			for _, d := range []*time.Duration{&o.Arrival, &o.Queued, &o.FirstToken, &o.End, &o.MaxGap} {
				*d /= 2
			}
		}
		if diff := cmp.Diff(slow.Outcomes, fast.Outcomes, byText, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
