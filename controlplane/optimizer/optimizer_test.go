package optimizer

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/controlplane/analysis"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/stats"
	"github.com/optiinfra/performance-agent/pkg/workload"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

const replicas = 4

var objectives = &commandv1.Objectives{TtftSeconds: 0.5, TpotSeconds: 0.05}

// truth is an engine with hidden coefficients that the optimizer never sees.
type truth struct {
	t      *testing.T
	tables *perfmodel.Tables
	hidden des.Truth
	law    des.Cost // takes the place of tables and coefficients
	// clients of a closed loop, 0: the trace's own arrivals
	clients int
}

func (u truth) run(seqs, budget int, trace []workload.Request, onStep func(int, time.Duration, des.Step)) des.Result {
	u.t.Helper()
	engines := make([]*des.Engine, replicas)
	for i := range engines {
		engines[i] = des.New(des.Config{
			Dialect: des.VLLM, MaxNumSeqs: seqs, MaxBatchedTokens: budget, ChunkedPrefill: true,
			KVTokens: 400_000, AsyncScheduling: true, StepNoise: u.hidden.StepNoise,
		}, u.cost(seqs, budget, i), uint64(i))
	}
	r, err := des.Run(engines, trace, des.Options{
		Clients:   u.clients,
		OnStep:    onStep,
		Objective: des.Objective{TTFT: duration(objectives.TtftSeconds), TPOT: duration(objectives.TpotSeconds)},
	})
	if err != nil {
		u.t.Fatal(err)
	}
	return r
}

// cost of the i-th engine's steps.
func (u truth) cost(seqs, budget, i int) des.Cost {
	u.t.Helper()
	if u.law != nil {
		return u.law
	}
	_, gpu, err := u.tables.GPU("h100-sxm")
	if err != nil {
		u.t.Fatal(err)
	}
	_, model, err := u.tables.Model("llama-3.1-8b")
	if err != nil {
		u.t.Fatal(err)
	}
	p, err := perfmodel.New(perfmodel.Setup{GPU: gpu, Model: model, MaxNumSeqs: seqs, MaxBatchedTokens: budget}, u.hidden.Coefficients)
	if err != nil {
		u.t.Fatal(err)
	}
	return u.hidden.Life(uint64(i), p)
}

// windows turns a run into the telemetry that sidecars would have sent, ending at end.
func (u truth) windows(seqs, budget int, trace []workload.Request, seconds int, end time.Time) []*fleet.Window {
	start := end.Add(-time.Duration(seconds) * time.Second)
	ws := map[string]map[int]*fleet.Window{}
	at := func(replica int, when time.Duration) *fleet.Window {
		id := instanceID(replica)
		if ws[id] == nil {
			ws[id] = map[int]*fleet.Window{}
			for i := range seconds {
				w := fleet.NewWindow(id, start.Add(time.Duration(i)*time.Second))
				w.Gauges[fleet.KVCapacityTokens] = 400_000
				ws[id][i] = w
			}
		}
		return ws[id][min(seconds-1, int(when.Seconds()))]
	}
	r := u.run(seqs, budget, trace, func(replica int, when time.Duration, s des.Step) {
		w := at(replica, when)
		w.Counters[fleet.Iterations]++
		w.Counters[fleet.IterationTokens] += float64(s.Shape.Decoding + s.Shape.PromptTokens())
		w.Counters[fleet.GenerationTokens] += float64(len(s.Tokens))
		w.Gauges[fleet.RequestsRunning] = float64(s.Shape.Decoding + len(s.Shape.Chunks))
		if s.Shape.Decoding > 0 {
			observe(u.t, w, fleet.ITL, s.Duration.Seconds())
		}
	})
	for _, o := range r.Outcomes {
		observe(u.t, at(o.Replica, o.FirstToken), fleet.TTFT, o.TTFT().Seconds())
		observe(u.t, at(o.Replica, o.FirstToken), fleet.Queue, o.Queued.Seconds())
		observe(u.t, at(o.Replica, o.End), fleet.E2E, o.E2E().Seconds())
		if tpot := o.TPOT().Seconds(); tpot > 0 {
			observe(u.t, at(o.Replica, o.End), fleet.TPOT, tpot)
		}
		at(o.Replica, o.FirstToken).Counters[fleet.PromptTokens] += float64(o.Request.PromptTokens)
		at(o.Replica, o.End).Counters[fleet.RequestsFinished]++
		for s := int(o.Arrival.Seconds()); s < int((o.Arrival + o.Queued).Seconds()); s++ {
			at(o.Replica, time.Duration(s)*time.Second).Gauges[fleet.RequestsWaiting]++
		}
	}
	var out []*fleet.Window
	for _, bySecond := range ws {
		for _, w := range bySecond {
			out = append(out, w)
		}
	}
	return out
}

func observe(t *testing.T, w *fleet.Window, metric string, v float64) {
	t.Helper()
	if w.Sketches[metric] == nil {
		w.Sketches[metric] = stats.NewSketch()
	}
	if err := w.Sketches[metric].Add(v); err != nil {
		t.Fatal(err)
	}
}

func instanceID(i int) string { return "agent/" + string(rune('a'+i)) }

// static telemetry for the service.
type static []*fleet.Window

func (s static) Windows([]string, time.Time, time.Time) []*fleet.Window { return s }

func bound(v float64) *float64 { return &v }

func description() *enginev1.Description {
	batching := enginev1.KnobFamily_KNOB_FAMILY_BATCHING
	return &enginev1.Description{
		Engine: "vllm", Version: "0.32.0", Model: "llama-3.1-8b", RestartEstimate: durationpb.New(time.Minute),
		Knobs: []*enginev1.Knob{
			{Name: "max_num_seqs", Neutral: "max_num_seqs", Flag: "--max-num-seqs", Type: enginev1.KnobType_KNOB_TYPE_INT, DefaultValue: "1024", Min: bound(1), Family: batching},
			{Name: "max_num_batched_tokens", Neutral: "max_num_batched_tokens", Flag: "--max-num-batched-tokens", Type: enginev1.KnobType_KNOB_TYPE_INT, DefaultValue: "8192", Min: bound(1), Family: batching},
			{Name: "kv_cache_dtype", Neutral: "kv_dtype", Flag: "--kv-cache-dtype", Type: enginev1.KnobType_KNOB_TYPE_ENUM, DefaultValue: "auto", Values: []string{"auto", "fp8_e4m3"}, Lossy: true},
		},
	}
}

// fleetOf registers replicas that run with the given settings on their command line.
func fleetOf(t *testing.T, base map[string]string) *fsm.Machine {
	t.Helper()
	return fleetOn(t, "h100-sxm", base)
}

func fleetOn(t *testing.T, hardware string, base map[string]string) *fsm.Machine {
	t.Helper()
	m := fsm.New()
	var transitions []*commandv1.AgentTransition
	yes := true
	for i := range replicas {
		d := description()
		d.Effective = base
		transitions = append(transitions, &commandv1.AgentTransition{
			InstanceId: instanceID(i), AgentId: "agent", Reachable: &yes,
			Engine: &agentv1.EngineInfo{InstanceId: instanceID(i), Name: string(rune('a' + i)), Group: "chat", Hardware: hardware, Description: d, BaseSettings: base},
			State:  &agentv1.StateReport{InstanceId: instanceID(i), Sequence: 1, Phase: agentv1.Phase_PHASE_IDLE, Serving: true},
		})
	}
	apply(t, m, 1, commandv1.CommandType_COMMAND_TYPE_INIT_CLUSTER, &commandv1.InitCluster{ClusterId: "c"})
	apply(t, m, 2, commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT, &commandv1.AgentsReport{Transitions: transitions})
	apply(t, m, 3, commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, &commandv1.PutGroup{Name: "chat", Policy: &commandv1.Policy{Objectives: objectives}})
	return m
}

func service(t *testing.T, m *fsm.Machine, ws []*fleet.Window, now time.Time) *Service {
	t.Helper()
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	v := New(Config{}, m, static(ws), tables)
	v.now = func() time.Time { return now }
	return v
}

func traceOf(t *testing.T, rate float64) []workload.Request {
	t.Helper()
	spec, err := workload.Named("azure-conv")
	if err != nil {
		t.Fatal(err)
	}
	spec.Arrivals.Rate, spec.Duration, spec.Count = rate, time.Minute, 0
	trace, err := workload.Generate(spec, 7)
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

// TestRecommendBeatsBadSettings closes the loop in virtual time: telemetry of engines whose
// coefficients the optimizer does not know, its proposal, and what those engines then do.
func TestRecommendBeatsBadSettings(t *testing.T) {
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	trace := traceOf(t, 5)
	for seed := range uint64(2) {
		u := truth{t: t, tables: tables, hidden: des.Hidden(seed, perfmodel.Prior())}
		v := service(t, fleetOf(t, map[string]string{"max_num_seqs": "2", "max_num_batched_tokens": "32"}), u.windows(2, 32, trace, 60, now), now)
		r, err := v.Recommend(context.Background(), "chat", nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.GetStatus() != "open" {
			t.Fatalf("seed %d: no proposal: %s", seed, r.GetTitle())
		}
		if c := r.GetFinding().GetClass(); c != string(analysis.BatchLimited) && c != string(analysis.PrefillBound) {
			t.Errorf("seed %d: finding %s", seed, c)
		}
		s := &Scene{Description: description(), Incumbent: r.GetSettings()}
		before, after := u.run(2, 32, trace, nil).Summary, u.run(int(s.number("max_num_seqs", 0)), int(s.number("max_num_batched_tokens", 0)), trace, nil).Summary
		if after.GoodShare < 3*before.GoodShare && after.E2E.P95 > before.E2E.P95*34/100 {
			t.Errorf("seed %d: %s: goodput share %.2f → %.2f, p95 E2E %s → %s", seed, r.GetTitle(), before.GoodShare, after.GoodShare, before.E2E.P95, after.E2E.P95)
		}
		p := r.GetPredicted()["e2e_p50"]
		if got := after.E2E.P50.Seconds(); got < p.GetLow() || got > p.GetHigh() {
			t.Errorf("seed %d: median E2E %.2f s is outside of the predicted %.2f … %.2f", seed, got, p.GetLow(), p.GetHigh())
		}
		t.Logf("seed %d: %s; goodput share %.2f → %.2f; p95 E2E %s → %s, predicted %.2f s", seed, r.GetTitle(), before.GoodShare, after.GoodShare, before.E2E.P95, after.E2E.P95, r.GetPredicted()["e2e_p95"].GetValue())
	}
}

func TestRecommendKeepsGoodIncumbent(t *testing.T) {
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	u := truth{t: t, tables: tables, hidden: des.Hidden(1, perfmodel.Prior())}
	v := service(t, fleetOf(t, map[string]string{"max_num_seqs": "256", "max_num_batched_tokens": "8192"}), u.windows(256, 8192, traceOf(t, 5), 60, now), now)
	r, err := v.Recommend(context.Background(), "chat", []string{"batching"})
	if err != nil {
		t.Fatal(err)
	}
	if r.GetStatus() != "kept_incumbent" || !strings.Contains(r.GetTitle(), "keep the incumbent") {
		t.Fatalf("status %s: %s", r.GetStatus(), r.GetTitle())
	}
}

func TestCapacityFollowsSettings(t *testing.T) {
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	u := truth{t: t, tables: tables, hidden: des.Hidden(1, perfmodel.Prior())}
	m := fleetOf(t, map[string]string{"max_num_seqs": "4", "max_num_batched_tokens": "64"})
	trace := traceOf(t, 2)
	v := service(t, m, u.windows(4, 64, trace, 60, now), now)
	small := m.Instance(instanceID(0))
	got, ok := v.TokensPerSecond(small)
	if !ok {
		t.Fatal("capacity is unknown")
	}
	// The truth: what the same engine finishes when it always has work.
	busy, _ := workload.Named("azure-conv")
	busy.Arrivals.Rate, busy.Count, busy.Duration = 100, 400, 0
	flood, err := workload.Generate(busy, 3)
	if err != nil {
		t.Fatal(err)
	}
	s := u.run(4, 64, flood, nil)
	var tokens float64
	for _, o := range s.Outcomes {
		tokens += float64(o.Request.PromptTokens + o.Tokens)
	}
	want := tokens / s.Elapsed.Seconds() / replicas
	if got < 0.75*want || got > 1.25*want {
		t.Errorf("capacity %.0f tokens/s, the engine does %.0f when flooded", got, want)
	}
	large := m.Instance(instanceID(0))
	large.Effective = map[string]string{"max_num_seqs": "64", "max_num_batched_tokens": "4096"}
	if more, ok := v.TokensPerSecond(large); !ok || more < 2*got {
		t.Errorf("capacity %.0f with larger limits, %.0f with small ones", more, got)
	}
}

func TestRecommendSaysWhatItLacks(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	v := service(t, fleetOf(t, nil), nil, now)
	r, err := v.Recommend(context.Background(), "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.GetTitle(), "not enough data, because") {
		t.Fatalf("title %q", r.GetTitle())
	}
	if _, err := v.Recommend(context.Background(), "nobody", nil); err == nil {
		t.Fatal("an unknown group must be an error")
	}
}

func TestHardRules(t *testing.T) {
	s := &Scene{Tabled: true, Description: description(), Totals: fleet.NewAggregate(), Base: map[string]string{"max_num_seqs": "4"}}
	for name, c := range map[string]struct {
		neutral map[string]string
		want    string
	}{
		"budget below sequences": {map[string]string{"max_num_seqs": "1024", "max_num_batched_tokens": "512"}, "below 1024 sequences"},
		"unknown value":          {map[string]string{"kv_dtype": "fp4"}, "knows no value fp4"},
		"fine":                   {map[string]string{"max_num_seqs": "64"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cand := candidate{neutral: c.neutral, change: map[string]string{}}
			for n, v := range c.neutral {
				cand.change[s.knob(n).GetName()] = v
			}
			got := s.hardRules(cand)
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func apply(t *testing.T, m *fsm.Machine, index uint64, typ commandv1.CommandType, payload proto.Message) {
	t.Helper()
	raw, err := fsm.Encode(typ, payload, "", "test", 1_700_000_000_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(index, raw).Err(); err != nil {
		t.Fatal(err)
	}
}
