package rollout

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// stage is a world that a Controller works on: log, fleet, telemetry and evidence in one, in
// virtual time.
type stage struct {
	t testing.TB

	mu       sync.Mutex // guards what follows
	w        *fsmtest.World
	windows  map[string]map[int64]*fleet.Window
	leases   []time.Time
	evidence int
	rng      *rand.Rand
	// slow is the factor by which replicas on a new epoch are slower.
	slow float64
	// silent replicas report nothing while they are on a new epoch.
	silent bool
	// deposed makes leadership uncertain.
	deposed bool
	// budget of users, nil for none.
	budget Budget
}

func newStage(t testing.TB, replicas int, slow float64) *stage {
	s := &stage{t: t, w: fsmtest.New(replicas), windows: map[string]map[int64]*fleet.Window{}, rng: rand.New(rand.NewPCG(1, 1)), slow: slow}
	s.w.NowMs = time.Now().UnixMilli()
	if r := s.w.SetPolicy(&commandv1.Policy{
		MaxUnavailable: 2, ObserveMinMs: 20_000, ObserveMaxMs: 90_000, BakeMs: 10_000, MinRequests: 100, ProbationMs: 60_000, LeaseEveryMs: 5_000,
	}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	return s
}

func (s *stage) Propose(_ context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.NowMs = time.Now().UnixMilli()
	return s.w.DoAs(typ, payload, requestID, actor), nil
}

func (s *stage) Lease(context.Context, string, uint64, time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases = append(s.leases, time.Now())
	return nil
}

func (s *stage) VerifyLeader(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deposed {
		return context.DeadlineExceeded
	}
	return nil
}

func (s *stage) Put(content []byte) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evidence++
	return hashOf(content), nil
}

func (s *stage) Windows(ids []string, from, to time.Time) []*fleet.Window {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*fleet.Window
	for _, id := range ids {
		for at := from.Unix(); at < to.Unix(); at++ {
			if w := s.windows[id][at]; w != nil && !w.Start.Before(from) && !w.Start.Add(time.Second).After(to) {
				found = append(found, w)
			}
		}
	}
	return found
}

// second lets agents follow their directives and measure one second.
func (s *stage) second() {
	time.Sleep(time.Second) // virtual
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.NowMs = time.Now().UnixMilli()
	s.w.Deliver()
	s.w.Work()
	for _, a := range s.w.Agents {
		changed := a.State.GetRunningEpoch() != 0
		if !a.State.GetServing() || s.silent && changed {
			continue
		}
		ttft := 0.2
		if changed {
			ttft *= s.slow
		}
		w := window(s.t, s.rng, a.ID, time.Unix(time.Now().Unix()-1, 0), 6, ttft)
		w.Epoch = a.State.GetRunningEpoch()
		if s.windows[a.ID] == nil {
			s.windows[a.ID] = map[int64]*fleet.Window{}
		}
		s.windows[a.ID][w.Start.Unix()] = w
	}
}

func (s *stage) rollout() *commandv1.Rollout { return s.w.Machine.Rollout("r-1") }

// lead starts a controller and returns what stops it and waits for it.
func (s *stage) lead(term uint64) (stop func()) {
	s.mu.Lock()
	s.w.Term = term
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	c := NewController(Config{}, s.w.Machine, Ports{Log: s, Fleet: s, Leadership: s, Telemetry: s, Evidence: s, Budget: s.budget}, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx, term); err != nil {
			s.t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

// until lets seconds pass until the condition holds, and returns how many.
func (s *stage) until(most int, what string, holds func() bool) int {
	s.t.Helper()
	for n := range most {
		if holds() {
			return n
		}
		s.second()
	}
	s.t.Fatalf("not within %d s: %s; rollout %v", most, what, s.rollout())
	return 0
}

func (s *stage) is(states ...commandv1.RolloutState) func() bool {
	return func() bool { return slices.Contains(states, s.rollout().GetState()) }
}

const (
	succeeded  = commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED
	rolledBack = commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK
	observing  = commandv1.RolloutState_ROLLOUT_STATE_OBSERVING
	holding    = commandv1.RolloutState_ROLLOUT_STATE_HOLDING
	paused     = commandv1.RolloutState_ROLLOUT_STATE_PAUSED
)

// warm lets traffic run for a while and asks for a change.
func (s *stage) warm() {
	for range 30 {
		s.second()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.w.Create("r-1", "16"); r.Err() != nil {
		s.t.Fatal(r.Err())
	}
}

func TestControllerPromotesAnImprovement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 8, 0.5)
		defer s.lead(1)()
		s.warm()
		s.until(600, "promotion", s.is(succeeded))
		synctest.Wait() // the report is filed after the record says so
		if s.evidence < 5 {
			t.Errorf("%d evidence files, want one a verdict and the report", s.evidence)
		}
		last := s.rollout().GetWaves()[3].GetVerdicts()[0]
		if !strings.Contains(last.GetSummary(), "baseline") {
			t.Errorf("the last wave has no controls, yet its verdict says %q", last.GetSummary())
		}
		s.until(10, "report filed", func() bool { return len(s.w.Machine.Effects(true)) == 0 })
	})
}

func TestControllerTakesARegressionBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 8, 3)
		defer s.lead(1)()
		s.warm()
		s.until(120, "observation", s.is(observing, rolledBack))
		s.until(60, "rollback", s.is(rolledBack))
		r := s.rollout()
		if took := r.GetMitigatedMs() - r.GetHarmMs(); took > 12_000 || r.GetMitigatedMs() == 0 {
			t.Errorf("mitigated after %d ms: %s", took, r.GetEndReason())
		}
		if len(r.GetWaves()) != 1 {
			t.Errorf("%d waves, want the first only", len(r.GetWaves()))
		}
		if len(s.w.Machine.Quarantines()) != 1 {
			t.Error("the configuration is not quarantined")
		}
	})
}

// TestSilenceNeverPasses holds invariant I16: replicas that are not measured hold the wave, and the
// deadline takes it back.
func TestSilenceNeverPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 8, 1)
		s.silent = true
		defer s.lead(1)()
		s.warm()
		s.until(120, "holding", s.is(holding))
		s.until(200, "rollback", s.is(rolledBack))
		if got := s.rollout().GetEndReason(); !strings.Contains(got, "deadline") {
			t.Errorf("end reason %q", got)
		}
	})
}

// leased is how many leases were given so far.
func (s *stage) leased() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.leases)
}

func TestGuardsAndLeasesUnderPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 8, 1)
		defer s.lead(1)()
		s.warm()
		s.until(120, "observation", s.is(observing))
		s.mu.Lock()
		s.w.Step("r-1", &commandv1.StepRollout{Step: &commandv1.StepRollout_Pause{Pause: &commandv1.Pause{}}})
		before := len(s.leases)
		s.mu.Unlock()
		for range 60 {
			s.second()
		}
		if got := s.leased() - before; got < 20 || !s.is(paused)() {
			t.Errorf("%d leases in a minute of two canaries, state %s", got, s.rollout().GetState())
		}
		s.mu.Lock()
		s.slow = 4
		s.mu.Unlock()
		s.until(60, "rollback from a pause", s.is(rolledBack))
	})
}

func TestNoLeaseWithoutCertainty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 8, 1)
		s.deposed = true
		defer s.lead(1)()
		s.warm()
		s.until(120, "observation", s.is(observing))
		if n := s.leased(); n != 0 {
			t.Errorf("%d leases from a leader that cannot prove it", n)
		}
	})
}

func TestNewLeaderResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 8, 0.5)
		stop := s.lead(1)
		s.warm()
		for term := uint64(2); !fsm.Ended(s.rollout().GetState()) && term < 200; term++ {
			for range 7 {
				s.second()
			}
			stop()
			stop = s.lead(term)
		}
		stop()
		if got := s.rollout().GetState(); got != succeeded {
			t.Fatalf("state %s: %v", got, s.rollout().GetNotes())
		}
		for _, a := range s.w.Agents {
			if len(a.Offers) != 1 || a.Offers[s.rollout().GetEpoch()] != 1 {
				t.Errorf("%s: offers %v", a.ID, a.Offers)
			}
		}
	})
}

func TestImpossibleRolloutIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 1)
		defer s.lead(1)()
		s.warm()
		s.until(10, "cancelled", s.is(commandv1.RolloutState_ROLLOUT_STATE_CANCELLED))
		if got := s.rollout().GetEndReason(); !strings.Contains(got, "allow_outage") {
			t.Errorf("end reason %q", got)
		}
	})
}
