package experiment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Config of a Controller. Zero values take the defaults named beside them.
type Config struct {
	Every time.Duration    // 500 ms between looks at what cannot be watched
	Now   func() time.Time // time.Now
}

// Ports are the parts that main passes in.
type Ports struct {
	Log      Log
	Engines  Engines
	Twin     Twin
	Evidence Evidence
}

// Controller carries tests out on the leader, and tells about them.
type Controller struct {
	cfg     Config
	machine *fsm.Machine
	ports   Ports
	logger  *slog.Logger
}

// New returns a controller; Run starts it.
func New(cfg Config, machine *fsm.Machine, ports Ports, logger *slog.Logger) *Controller {
	if cfg.Every == 0 {
		cfg.Every = 500 * time.Millisecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Controller{cfg: cfg, machine: machine, ports: ports, logger: logger.With("component", "experiment")}
}

// Run carries out open tests, each in a goroutine of its own, until ctx ends; to be run while this
// node leads. A new leader goes on where the records say that the last one was.
func (c *Controller) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { c.renew(ctx) })
	under := map[string]bool{}
	for {
		changed := c.machine.Watch()
		for _, e := range c.machine.OpenExperiments() {
			if id := e.GetId(); !under[id] {
				under[id] = true
				all.Go(func() { c.drive(ctx, id) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		if !c.rest(ctx) { // entries come by the dozen
			return nil
		}
	}
}

func (c *Controller) rest(ctx context.Context) bool {
	t := time.NewTimer(c.cfg.Every)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// drive leads one test to its end.
func (c *Controller) drive(ctx context.Context, id string) {
	ctx, stop := c.whileOpen(ctx, id)
	defer stop()
	t := &test{Controller: c, id: id, logger: c.logger.With("test", id)}
	for ctx.Err() == nil {
		changed := c.machine.Watch()
		e := c.machine.Experiment(id)
		if e == nil || fsm.ExperimentEnded(e.GetState()) {
			return
		}
		acted, err := t.step(ctx, e)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errGiveUp):
			err = c.propose(ctx, e, &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Fail{Fail: &commandv1.FailExperiment{Reason: err.Error()}}})
		}
		if err != nil {
			t.logger.Warn("step of a test not taken", "error", err)
		}
		if acted && err == nil {
			continue
		}
		select {
		case <-changed:
		case <-time.After(c.cfg.Every):
		case <-ctx.Done():
		}
	}
}

// errGiveUp wraps what no other try would mend.
var errGiveUp = errors.New("given up")

// whileOpen is a context that ends when the test does, by whoever's hand.
func (c *Controller) whileOpen(ctx context.Context, id string) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			changed := c.machine.Watch()
			if e := c.machine.Experiment(id); e == nil || fsm.ExperimentEnded(e.GetState()) {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, func() { cancel(); watching.Wait() }
}

// propose a step on what was seen of a test. A refusal that the test has moved on is none.
func (c *Controller) propose(ctx context.Context, e *commandv1.Experiment, step *commandv1.StepExperiment) error {
	step.Id, step.Runs = e.GetId(), uint32(len(e.GetRuns()))
	r, err := c.ports.Log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_STEP_EXPERIMENT, step, "", "test "+e.GetId())
	if err != nil {
		return fmt.Errorf("propose a step of test %s: %w", e.GetId(), err)
	}
	return r.Err()
}

// leaseTimeout bounds one renewal.
const leaseTimeout = 2 * time.Second

// renew extends the probation of engines on trial, so that they do not take the trial back by
// themselves while it is measured.
func (c *Controller) renew(ctx context.Context) {
	renewed := map[string]time.Time{}
	for c.rest(ctx) {
		for _, e := range c.machine.OpenExperiments() {
			policy := c.machine.Group(e.GetGroup()).GetPolicy()
			every := time.Duration(policy.GetLeaseEveryMs()) * time.Millisecond
			if e.GetTrialEpoch() == 0 || c.cfg.Now().Sub(renewed[e.GetInstance()]) < every {
				continue
			}
			lease, cancel := context.WithTimeout(ctx, leaseTimeout)
			err := c.ports.Engines.Lease(lease, e.GetInstance(), e.GetTrialEpoch(), time.Duration(policy.GetProbationMs())*time.Millisecond)
			cancel()
			if err != nil {
				c.logger.Warn("lease of a trial was not renewed", "test", e.GetId(), "error", err)
				continue
			}
			renewed[e.GetInstance()] = c.cfg.Now()
		}
	}
}
