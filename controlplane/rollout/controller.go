package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Config of a Controller. Zero fields take the defaults.
type Config struct {
	// Every is the pace of guards, deadlines and leases (1 s). Changes of the records are followed
	// at once.
	Every time.Duration
	// JudgeEvery is the pace of verdicts (5 s).
	JudgeEvery time.Duration
	// Now is the clock (time.Now).
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.JudgeEvery == 0 {
		c.JudgeEvery = judgeInterval
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Controller drives all rollouts while this node leads.
type Controller struct {
	cfg        Config
	state      *fsm.Machine
	log        Log
	fleet      Fleet
	leadership Leadership
	telemetry  Telemetry
	predictor  Predictor
	judgeOf    Judge
	evidence   Evidence
	budget     Budget
	logger     *slog.Logger

	mu      sync.Mutex
	waiting map[string]string // guarded by mu; why a rollout does not move, by its id
}

// Ports are what a Controller works with. Judge nil is NonInferiority; Predictor nil leaves capacity
// to be extrapolated from how full the replicas are.
type Ports struct {
	Log        Log
	Fleet      Fleet
	Leadership Leadership
	Telemetry  Telemetry
	Predictor  Predictor
	Judge      Judge
	Evidence   Evidence
	// Budget nil: no error budget gates or ends a rollout.
	Budget Budget
}

// NewController returns a Controller of the rollouts in a state machine.
func NewController(cfg Config, state *fsm.Machine, p Ports, logger *slog.Logger) *Controller {
	if p.Judge == nil {
		p.Judge = NonInferiority{}
	}
	return &Controller{
		cfg: cfg.withDefaults(), state: state, log: p.Log, fleet: p.Fleet, leadership: p.Leadership,
		telemetry: p.Telemetry, predictor: p.Predictor, judgeOf: p.Judge, evidence: p.Evidence, budget: p.Budget,
		logger: logger.With("component", "rollout"), waiting: map[string]string{},
	}
}

// watch is what a controller remembers of a rollout between two looks. A new leader begins anew.
type watch struct {
	judgeAt  time.Time
	lookAt   time.Time // next look at guards and load
	strikes  int       // looks in a row that found a hard regression
	hard     int       // verdicts in a row that found one in the wave's whole evidence
	headroom Headroom  // of the last look
}

// Run drives the rollouts until ctx ends. It is called while this node leads, with the term of its
// leadership, and returns nil.
func (c *Controller) Run(ctx context.Context, term uint64) error {
	var g errgroup.Group
	g.Go(func() error { c.drive(ctx, term); return nil })
	g.Go(func() error { c.renew(ctx); return nil })
	return g.Wait()
}

func (c *Controller) drive(ctx context.Context, term uint64) {
	tick := time.NewTicker(c.cfg.Every)
	defer tick.Stop()
	watches := map[string]*watch{}
	for {
		changed := c.state.Watch()
		seen := map[string]*watch{}
		for _, r := range c.state.OpenRollouts() {
			seen[r.GetId()] = cmp.Or(watches[r.GetId()], &watch{})
			c.advance(ctx, r, term, seen[r.GetId()])
		}
		watches = seen
		c.keepWaiting(seen)
		c.report(ctx, term)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
		}
	}
}

// advance looks at one rollout and proposes what Next says.
func (c *Controller) advance(ctx context.Context, r *commandv1.Rollout, term uint64, w *watch) {
	o := c.observe(r, term, w)
	steps := Next(r, o)
	c.setWaiting(r.GetId(), waitingFor(r, o, steps))
	for _, step := range steps {
		result, err := c.log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT, step, "", "leader")
		if err != nil {
			c.logger.Warn("step was not committed", "rollout", r.GetId(), "step", stepName(step), "error", err)
			return
		}
		if result.Refusal != nil {
			c.refused(ctx, r, step, result.Refusal)
			return
		}
	}
}

// refused ends a rollout that can never start; any other refusal is a race that the next look
// resolves.
func (c *Controller) refused(ctx context.Context, r *commandv1.Rollout, step *Step, why *fsm.Refusal) {
	c.logger.Info("step was refused", "rollout", r.GetId(), "step", stepName(step), "code", string(why.Code), "reason", why.Message)
	c.setWaiting(r.GetId(), why.Message)
	if r.GetEpoch() != 0 || why.Code == fsm.Locked {
		return
	}
	cancel := &Step{RolloutId: r.GetId(), Step: &commandv1.StepRollout_Cancel{Cancel: &commandv1.Cancel{Reason: why.Message}}}
	if _, err := c.log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT, cancel, "", "leader"); err != nil {
		c.logger.Warn("step was not committed", "rollout", r.GetId(), "step", "cancel", "error", err)
	}
}

func stepName(s *Step) string { return fmt.Sprintf("%T", s.GetStep()) }

// waitingFor says why a rollout does not move, empty when it does or needs no explanation.
func waitingFor(r *commandv1.Rollout, o Observation, steps []*Step) string {
	if len(steps) > 0 {
		return ""
	}
	switch r.GetState() {
	case commandv1.RolloutState_ROLLOUT_STATE_QUEUED:
		if o.LockHolder != "" {
			return "waits until " + o.LockHolder + " has ended"
		}
		return "waits for an older rollout of the group"
	case commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT, commandv1.RolloutState_ROLLOUT_STATE_DRAINING, commandv1.RolloutState_ROLLOUT_STATE_WARMING:
		return capacityWords(r, o)
	}
	return ""
}

// capacityWords says what keeps the next batch from leaving rotation, empty when nothing does.
func capacityWords(r *commandv1.Rollout, o Observation) string {
	var next []string
	for _, i := range o.Members {
		if fsm.Changeable(r, i, o.Incarnation) {
			next = append(next, i.GetId())
			break
		}
	}
	if c := o.capacity(r); !c.Admits(1) {
		return fmt.Sprintf("%d of %d replicas are unavailable; no more may leave rotation now", c.Unavailable, c.Replicas)
	}
	if ok, words := o.Headroom.Allows(r.GetPolicy(), o.Members, next, o.Incarnation); !ok {
		return words
	}
	return ""
}

func (c *Controller) setWaiting(id, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why == "" {
		delete(c.waiting, id)
		return
	}
	if c.waiting[id] != why {
		c.logger.Info("rollout waits", "rollout", id, "reason", why)
	}
	c.waiting[id] = why
}

// keepWaiting forgets why ended rollouts waited.
func (c *Controller) keepWaiting(open map[string]*watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.waiting, func(id, _ string) bool { return open[id] == nil })
}

// Waiting says in words why a rollout does not move, as seen by this node while it leads; empty
// when it moves.
func (c *Controller) Waiting(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting[id]
}

// report carries out the outbox rows of this feature: the record of an ended rollout is filed.
func (c *Controller) report(ctx context.Context, term uint64) {
	for _, e := range c.state.Effects(true) {
		if e.GetKind() != "rollout_report" {
			continue
		}
		raw, err := json.MarshalIndent(c.state.Rollout(e.GetTarget()), "", "  ")
		if err != nil {
			c.logger.Error("report could not be written down", "rollout", e.GetTarget(), "error", err)
			continue
		}
		hash, err := c.evidence.Put(raw)
		if err != nil {
			hash = "not filed: " + err.Error()
			c.logger.Error("report could not be filed", "rollout", e.GetTarget(), "error", err)
		}
		done := &commandv1.EffectDone{Id: e.GetId(), Term: term, Result: hash}
		if _, err := c.log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_EFFECT_DONE, done, "", "leader"); err != nil {
			c.logger.Warn("effect was not committed", "effect", e.GetId(), "error", err)
			return
		}
	}
}
