package analysis

import (
	"fmt"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// gains answers a forecast from a table of the first knob.
type gains map[string]float64

func (g gains) Gain(knobs []string) (gain, low float64, remedy string) {
	v := g[knobs[0]]
	return v, v / 2, fmt.Sprintf("%s up", knobs[0])
}

// load describes steady telemetry of one replica.
type load struct {
	seconds               int
	running, waiting, kv  float64
	waitingGrows          float64 // per second
	preempt               float64 // per second
	ttft, queue, itl      float64 // seconds
	stepTokens, steps     float64 // per second
	requests, out, prompt float64 // per second
	stale                 bool
}

func (l load) windows(replica string) []*fleet.Window {
	start := time.Unix(1_700_000_000, 0)
	var ws []*fleet.Window
	for i := range l.seconds {
		w := fleet.NewWindow(replica, start.Add(time.Duration(i)*time.Second))
		w.Gauges[fleet.RequestsRunning] = l.running
		w.Gauges[fleet.RequestsWaiting] = l.waiting + l.waitingGrows*float64(i)
		w.Gauges[fleet.KVUsage] = l.kv
		w.Counters[fleet.RequestsFinished] = l.requests
		w.Counters[fleet.GenerationTokens] = l.out
		w.Counters[fleet.PromptTokens] = l.prompt
		w.Counters[fleet.Preemptions] = l.preempt
		w.Counters[fleet.Iterations] = l.steps
		w.Counters[fleet.IterationTokens] = l.stepTokens * l.steps
		for metric, v := range map[string]float64{fleet.TTFT: l.ttft, fleet.Queue: l.queue, fleet.ITL: l.itl} {
			w.Sketches[metric] = stats.NewSketch()
			if err := w.Sketches[metric].AddN(v, l.requests); err != nil {
				panic(err)
			}
		}
		if l.stale {
			w.Sources = []*agentv1.Source{{Name: "engine", Stale: true}}
		}
		ws = append(ws, w)
	}
	return ws
}

func TestAnalyze(t *testing.T) {
	healthy := load{seconds: 30, running: 3, kv: 0.2, ttft: 0.1, queue: 0.01, itl: 0.01, stepTokens: 60, steps: 90, requests: 2, out: 300, prompt: 2000}
	with := func(change func(*load)) load {
		l := healthy
		change(&l)
		return l
	}
	all := gains{"max_num_seqs": 2, "max_num_batched_tokens": 1, "kv_memory_fraction": 0.5, "weight_dtype": 0.3}
	config := Config{"max_num_seqs": "4", "max_num_batched_tokens": "8192"}
	for name, c := range map[string]struct {
		load   load
		config Config
		gains  gains
		want   Class
	}{
		"nothing arrived":         {load{}, config, all, NotEnoughData},
		"too short":               {with(func(l *load) { l.seconds = 5 }), config, all, NotEnoughData},
		"stale sources":           {with(func(l *load) { l.stale = true }), config, all, NotEnoughData},
		"idle":                    {with(func(l *load) { l.requests, l.out = 0.01, 1 }), config, all, NotEnoughData},
		"full batch with a queue": {with(func(l *load) { l.running, l.waiting, l.queue = 4, 3, 0.08 }), config, all, BatchLimited},
		"one below the limit":     {with(func(l *load) { l.running, l.waiting, l.queue = 3, 3, 0.08 }), config, all, BatchLimited},
		"full batch without gain": {with(func(l *load) { l.running, l.waiting, l.queue = 4, 3, 0.08 }), config, gains{"max_num_seqs": 0.02}, None},
		"full batch without queue": {
			with(func(l *load) { l.running = 4 }), config, gains{"max_num_seqs": 2}, None,
		},
		"tiny token budget": {
			with(func(l *load) { l.stepTokens = 30 }), Config{"max_num_seqs": "64", "max_num_batched_tokens": "32"}, all, PrefillBound,
		},
		"tiny token budget, steps not counted": {
			with(func(l *load) { l.steps, l.waiting = 0, 3 }), Config{"max_num_seqs": "64", "max_num_batched_tokens": "32"}, all, PrefillBound,
		},
		"prompts of a few steps, steps not counted": {
			with(func(l *load) { l.steps, l.waiting = 0, 3 }), Config{"max_num_seqs": "64", "max_num_batched_tokens": "512"}, gains{"max_num_batched_tokens": 2}, None,
		},
		"cache full, evicting": {with(func(l *load) { l.kv, l.preempt, l.waiting = 0.97, 0.5, 2 }), config, all, KVBound},
		"cache full, harmless": {with(func(l *load) { l.kv = 0.97 }), config, gains{"kv_memory_fraction": 1}, None},
		"decode":               {with(func(l *load) { l.itl = 0.04 }), config, all, DecodeBound},
		"growing queue": {
			with(func(l *load) { l.waitingGrows, l.queue, l.kv = 0.5, 0.09, 0.85 }), Config{"max_num_seqs": "256", "max_num_batched_tokens": "8192"}, all, QueueBound,
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Group: "chat", Replicas: 1, Windows: c.load.windows("a/0"), Config: c.config, Objectives: &commandv1.Objectives{TpotSeconds: 0.05}}
			got := Analyze(in, c.gains)
			if got[0].GetClass() != string(c.want) {
				t.Fatalf("primary finding %s (%s), want %s", got[0].GetClass(), got[0].GetSummary(), c.want)
			}
			for _, f := range got[1:] {
				if f.GetSuppressedBy() == "" {
					t.Errorf("%s is neither primary nor suppressed", f.GetClass())
				}
			}
		})
	}
}

func TestRankPutsLargestGainFirst(t *testing.T) {
	l := load{seconds: 30, running: 4, waiting: 3, kv: 0.2, ttft: 0.4, queue: 0.3, itl: 0.01, stepTokens: 30, steps: 90, requests: 2, out: 300, prompt: 2000}
	in := Input{Windows: l.windows("a/0"), Config: Config{"max_num_seqs": "4", "max_num_batched_tokens": "32"}}
	got := Analyze(in, gains{"max_num_seqs": 0.5, "max_num_batched_tokens": 3})
	if got[0].GetClass() != string(PrefillBound) || got[1].GetClass() != string(BatchLimited) {
		t.Fatalf("order %s, %s; want the larger gain first", got[0].GetClass(), got[1].GetClass())
	}
	if got[1].GetSuppressedBy() != string(PrefillBound) {
		t.Errorf("second finding is suppressed by %q", got[1].GetSuppressedBy())
	}
}

func TestSlopeNeedsCertainty(t *testing.T) {
	flat, rising := map[int64]float64{}, map[int64]float64{}
	for i := range int64(30) {
		flat[i] = float64(i % 7)
		rising[i] = float64(i) + float64(i%3)
	}
	if _, low := slope(flat); low > 0 {
		t.Errorf("a sawtooth has lower bound %.2f, want no certain growth", low)
	}
	if b, low := slope(rising); low <= 0 || b < 0.9 || b > 1.1 {
		t.Errorf("slope %.2f (low %.2f), want about 1 for certain", b, low)
	}
}
