package experiment

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/quality"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// world is a machine with model agents, and engines whose speed the test decides.
type world struct {
	*fsmtest.World
	*Controller
	rng   *rand.Rand
	kept  map[string][]byte
	plans []load.Plan
	// speed of an engine with these settings; answer of one to golden prompts.
	speed  func(settings map[string]string) float64
	answer func(settings map[string]string, qs []quality.Question) []quality.Answer
	refuse string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: fsmtest.New(2), rng: rand.New(rand.NewPCG(1, 2)), kept: map[string][]byte{}, speed: func(map[string]string) float64 { return 1 }}
	w.Controller = New(Config{Now: w.Now}, w.Machine, Ports{Log: w, Engines: w, Twin: w, Evidence: w}, slog.New(slog.DiscardHandler))
	w.Do(commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: w.Agents[0].ID, Drained: true})
	w.Settle()
	return w
}

func (w *world) Propose(_ context.Context, typ commandv1.CommandType, m proto.Message, id, actor string) (fsm.Result, error) {
	return w.DoAs(typ, m, id, actor), nil
}

func (w *world) Put(b []byte) (string, error) {
	sum := sha256.Sum256(b)
	hash := hex.EncodeToString(sum[:])
	w.kept[hash] = b
	return hash, nil
}

func (w *world) Get(hash string) ([]byte, error) {
	if b, ok := w.kept[hash]; ok {
		return b, nil
	}
	return nil, ErrNoEvidence
}

func (w *world) settings() map[string]string {
	return w.Machine.Body(w.Agents[0].State.GetRunningHash()).GetBody().GetSettings()
}

func (w *world) LoadTest(_ context.Context, _ string, lt *agentv1.LoadTest) ([]byte, error) {
	if w.refuse != "" {
		return nil, fmt.Errorf("%w: %s", ErrRefused, w.refuse)
	}
	var p load.Plan
	if err := json.Unmarshal(lt.GetPlanJson(), &p); err != nil {
		return nil, err
	}
	w.plans = append(w.plans, p)
	r := w.report(p, w.speed(w.settings()))
	r.Engine.Epoch = w.Agents[0].State.GetRunningEpoch()
	return json.Marshal(r)
}

// report of a run: requests take longer the nearer the rate comes to 40 a second.
func (w *world) report(p load.Plan, speed float64) *load.Report {
	r := made(w.rng, 1/speed/max(.05, 1-p.Rate/40/speed), .01, p.Objectives)
	r.Plan = p
	return r
}

func (w *world) QualityTest(_ context.Context, _ string, qt *agentv1.QualityTest) ([]byte, error) {
	var qs []quality.Question
	if err := json.Unmarshal(qt.GetQuestionsJson(), &qs); err != nil {
		return nil, err
	}
	return json.Marshal(w.answer(w.settings(), qs))
}

func (w *world) CancelTest(context.Context, string, string) error { return nil }

func (w *world) Lease(context.Context, string, uint64, time.Duration) error { return nil }

func (w *world) Replay(_ context.Context, _ string, settings map[string]string, p load.Plan, draw int) (*load.Report, error) {
	w.rng = rand.New(rand.NewPCG(uint64(draw), p.Seed))
	return w.report(p, w.speed(settings)), nil
}

func (w *world) Live(context.Context, string) (load.Plan, error) {
	return load.Plan{}, errors.New("no traffic")
}

// carryOut leads a test to its end and returns it.
func (w *world) carryOut(t *testing.T, a load.Ask, validate bool) *load.Document {
	t.Helper()
	a.Group, a.Engine = fsmtest.Group, w.Agents[0].ID
	id, err := w.Start(t.Context(), a, validate, "", "operator")
	if err != nil {
		t.Fatal(err)
	}
	run := &test{Controller: w.Controller, id: id, logger: slog.New(slog.DiscardHandler)}
	for range 300 {
		e := w.Machine.Experiment(id)
		if fsm.ExperimentEnded(e.GetState()) {
			w.Settle()
			d, err := w.Document(id, true)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		if _, err := run.step(t.Context(), e); errors.Is(err, errGiveUp) {
			fail := &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Fail{Fail: &commandv1.FailExperiment{Reason: err.Error()}}}
			if err := w.propose(t.Context(), e, fail); err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		w.Settle()
	}
	t.Fatalf("test %s does not end: %v", id, w.Machine.Experiment(id))
	return nil
}

func traffic() load.Traffic {
	return load.Traffic{Rate: 5, PromptTokens: 10, OutputTokens: 11, Duration: 20}
}

func candidate(seqs string) map[string]string { return map[string]string{"max_num_seqs": seqs} }

// TestValidation walks whole comparisons: four fresh baselines, then the candidate and baselines in
// turn, each in a process of its own; the engine is given back as it was.
func TestValidation(t *testing.T) {
	for _, c := range []struct {
		name    string
		speed   float64
		verdict string
	}{{"better", 1.5, Better}, {"worse", .6, Worse}, {"the same", 1, KeepIncumbent}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.speed = func(s map[string]string) float64 {
				if s["max_num_seqs"] == "64" {
					return c.speed
				}
				return 1
			}
			d := w.carryOut(t, load.Ask{Traffic: traffic(), Settings: candidate("64")}, true)
			if d.Verdict != c.verdict || d.State != "done" || d.Comparison == nil {
				t.Fatalf("%s: %s", d.Verdict, d.Summary)
			}
			epochs := map[uint64]bool{}
			for k, r := range d.Runs {
				if epochs[r.Epoch] && r.Epoch != 0 || k > 0 && r.Epoch == 0 && d.Runs[k-1].Epoch == 0 {
					t.Errorf("run %d was made in a process that had one already", r.Number)
				}
				epochs[r.Epoch] = true
				if k < noiseRuns != (r.Arm == fsm.ArmBaseline) && k <= noiseRuns {
					t.Errorf("run %d is of the %s", r.Number, r.Arm)
				}
			}
			if st := w.Agents[0].State; st.GetRunningEpoch() != 0 || st.GetServing() || st.GetPhase() != agentv1.Phase_PHASE_IDLE {
				t.Errorf("afterwards %v", st)
			}
		})
	}
}

// TestEvidenceElsewhere: a new leader that lacks the reports of some runs makes them again.
func TestEvidenceElsewhere(t *testing.T) {
	w := newWorld(t)
	a := load.Ask{Traffic: traffic(), Settings: candidate("64"), Group: fsmtest.Group, Engine: w.Agents[0].ID}
	id, err := w.Start(t.Context(), a, true, "", "operator")
	if err != nil {
		t.Fatal(err)
	}
	first := &test{Controller: w.Controller, id: id, logger: slog.New(slog.DiscardHandler)}
	for len(w.Machine.Experiment(id).GetRuns()) < 3 {
		if _, err := first.step(t.Context(), w.Machine.Experiment(id)); err != nil {
			t.Fatal(err)
		}
		w.Settle()
	}
	clear(w.kept)
	second := &test{Controller: w.Controller, id: id, logger: slog.New(slog.DiscardHandler)}
	for !fsm.ExperimentEnded(w.Machine.Experiment(id).GetState()) {
		if _, err := second.step(t.Context(), w.Machine.Experiment(id)); err != nil {
			t.Fatal(err)
		}
		w.Settle()
	}
	d, err := w.Document(id, true)
	if err != nil || d.Verdict != KeepIncumbent || !d.Runs[0].Missing || len(d.Runs) < 3+noiseRuns+leastOfBothTwo {
		t.Errorf("%v, %s after %d runs", err, d.Verdict, len(d.Runs))
	}
}

func TestKneeAndSweep(t *testing.T) {
	w := newWorld(t)
	tr := traffic()
	tr.E2E, tr.Rate, tr.Duration = 5, 5, 5
	d := w.carryOut(t, load.Ask{Traffic: tr, FindKnee: true}, false)
	// Requests take 1/(1−rate/40) s on average; 5 s at the 95th percentile is at about 2.6 s, 25 a second.
	if d.Knee == nil || d.Knee.Rate < 18 || d.Knee.Rate > 30 || d.Knee.Broken <= d.Knee.Rate || d.Knee.Broken > 1.2*d.Knee.Rate {
		t.Errorf("%+v: %s", d.Knee, d.Summary)
	}
	tr = load.Traffic{Arrivals: "closed", Concurrency: 1, Duration: 5}
	d = w.carryOut(t, load.Ask{Traffic: tr, Concurrencies: []int{1, 4}, Repetitions: 2, Restarts: true}, false)
	got := ""
	for _, p := range w.plans[len(w.plans)-4:] {
		got += fmt.Sprintf("%d/%d ", p.Concurrency, p.Seed)
	}
	if got != "1/1 4/1 1/2 4/2 " || d.Runs[1].Epoch != d.Runs[0].Epoch || d.Runs[2].Epoch == d.Runs[1].Epoch {
		t.Errorf("runs %s on epochs %d %d %d", got, d.Runs[0].Epoch, d.Runs[1].Epoch, d.Runs[2].Epoch)
	}
}

func TestTwin(t *testing.T) {
	w := newWorld(t)
	w.speed = func(s map[string]string) float64 {
		if len(s) > 0 {
			return 1.4
		}
		return 1
	}
	d := w.carryOut(t, load.Ask{Twin: true, Traffic: traffic(), Settings: candidate("64")}, true)
	if d.Verdict != Better || !d.Twin || len(w.plans) != 0 {
		t.Errorf("%s: %s", d.Verdict, d.Summary)
	}
}

// TestFailures: what keeps a test from being carried out says nothing about the candidate, but that it
// does not start does.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	w.refuse = "it serves users again"
	if d := w.carryOut(t, load.Ask{Traffic: traffic()}, false); d.State != "failed" || !strings.Contains(d.EndReason, w.refuse) || d.Verdict != "" {
		t.Errorf("%s: %s", d.State, d.EndReason)
	}
	w = newWorld(t)
	failing := false
	w.speed = func(map[string]string) float64 {
		if len(w.plans) == noiseRuns && !failing {
			failing, w.Agents[0].FailNext = true, true // the next start, which is the candidate's
		}
		return 1
	}
	if d := w.carryOut(t, load.Ask{Traffic: traffic(), Settings: candidate("64")}, true); d.Verdict != Worse || !strings.Contains(d.Summary, "does not start: out of memory") {
		t.Errorf("%s: %s", d.Verdict, d.Summary)
	}
	for name, a := range map[string]load.Ask{
		"unknown group":  {Group: "nobody"},
		"unknown engine": {Group: fsmtest.Group, Engine: "nobody"},
		"two engines":    {Group: fsmtest.Group},
		"no rate":        {Group: fsmtest.Group, Engine: w.Agents[0].ID},
		"no live load":   {Group: fsmtest.Group, Engine: w.Agents[0].ID, Traffic: load.Traffic{Arrivals: "live"}},
		"knee of what":   {Group: fsmtest.Group, Engine: w.Agents[0].ID, Traffic: traffic(), FindKnee: true},
		"lengths":        {Group: fsmtest.Group, Engine: w.Agents[0].ID, Traffic: load.Traffic{Rate: 1, Shape: "poems"}},
	} {
		if _, err := w.Start(t.Context(), a, false, "", "operator"); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var refusal *fsm.Refusal
	if _, err := w.Start(t.Context(), load.Ask{Group: fsmtest.Group, Engine: w.Agents[1].ID, Traffic: traffic()}, false, "", "operator"); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "serves users") {
		t.Errorf("an engine that serves users: %v", err)
	}
}

// TestQualityGuard: a lossy candidate is rolled out only after its answers were judged good.
func TestQualityGuard(t *testing.T) {
	lossy := map[string]string{"kv_cache_dtype": "fp8"}
	for _, c := range []struct {
		name   string
		wrong  int // every so many answers of the candidate
		passed bool
	}{{"good", 0, true}, {"bad", 3, false}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.answer = func(s map[string]string, qs []quality.Question) (out []quality.Answer) {
				for k, q := range qs {
					a := quality.Answer{ID: q.ID, Text: q.Expect, Tokens: 2, Said: &quality.Forced{IDs: []int{k}}, Logprobs: []float64{-.5}}
					if len(s) > 0 && c.wrong > 0 && k%c.wrong == 0 {
						a.Text = "fish"
					}
					out = append(out, a)
				}
				return out
			}
			rollOut := func() error {
				return w.Do(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, &commandv1.CreateRollout{Group: fsmtest.Group, Body: &agentv1.Body{Engine: "vllm", Settings: lossy}}).Err()
			}
			if err := rollOut(); err == nil {
				t.Fatal("rolled out without a judgement")
			}
			d := w.carryOut(t, load.Ask{Traffic: traffic(), Settings: lossy}, true)
			if d.Quality == nil || d.Quality.Passed != c.passed || (d.Verdict == Worse) == c.passed {
				t.Fatalf("%s: %s, %+v", d.Verdict, d.Summary, d.Quality)
			}
			if err := rollOut(); (err == nil) != c.passed {
				t.Errorf("passed %v, and then the rollout: %v", c.passed, err)
			}
		})
	}
}
