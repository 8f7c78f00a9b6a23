package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Log takes commands into the replicated log.
type Log interface {
	Propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error)
}

// Advisor diagnoses and proposes from live telemetry.
type Advisor interface {
	Findings(ctx context.Context, group string) ([]*commandv1.Finding, error)
	Recommend(ctx context.Context, group string, families []string) (*commandv1.Recommendation, error)
	// Measure summarises a group between two times.
	Measure(ctx context.Context, group string, from, to time.Time) (*commandv1.Measured, error)
}

// Budget knows the error budgets of users.
type Budget interface {
	// Gate is what the budgets allow of a rollout in the group now; nil: nothing was promised.
	Gate(group string) *commandv1.BudgetGate
}

// Config of the controller.
type Config struct {
	Timing
	// Tick is how often workflows are looked at.
	Tick time.Duration
	// Every starts a workflow by itself for groups in auto mode this long after the last one
	// ended; zero: never.
	Every time.Duration
}

// DefaultConfig looks at a minute of telemetry and starts workflows only when asked.
func DefaultConfig() Config {
	return Config{
		Timing: Timing{Collect: time.Minute, Patience: 10 * time.Minute, Verify: time.Minute},
		Tick:   500 * time.Millisecond,
	}
}

// Controller runs the workflows of all groups on the leader.
type Controller struct {
	cfg     Config
	machine *fsm.Machine
	log     Log
	advisor Advisor
	budget  Budget
	logger  *slog.Logger
	now     func() time.Time
}

// New returns a controller; Run starts it. Without a budget no error budget asks for a person.
func New(cfg Config, machine *fsm.Machine, log Log, advisor Advisor, budget Budget, logger *slog.Logger) *Controller {
	return &Controller{cfg: cfg, machine: machine, log: log, advisor: advisor, budget: budget, logger: logger.With("component", "workflow"), now: time.Now}
}

// Run drives workflows until ctx ends; to be run while this node leads.
func (c *Controller) Run(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, w := range c.machine.Workflows("") {
			if Ended(w) {
				continue
			}
			if err := c.advance(ctx, w); err != nil && ctx.Err() == nil {
				c.logger.Warn("workflow step not taken", "workflow", w.GetId(), "state", w.GetState().String(), "error", err)
			}
		}
		if err := c.schedule(ctx); err != nil && ctx.Err() == nil {
			c.logger.Warn("workflow not scheduled", "error", err)
		}
	}
}

// advance takes at most one step.
func (c *Controller) advance(ctx context.Context, w *commandv1.Workflow) error {
	s := Next(w, c.observe(ctx, w), c.cfg.Timing)
	if s == nil {
		return nil
	}
	if s.CreateRollout != nil {
		r := c.machine.Recommendation(w.GetRecommendationId())
		s.CreateRollout.Body = &agentv1.Body{Engine: c.machine.Group(w.GetGroup()).GetEngine(), Settings: r.GetSettings()}
	}
	return c.act(ctx, w, s)
}

// act carries out the parts of a step in the order in which they refer to each other. Each has a
// request id made of the workflow and its state, so that a new leader repeating the step after a
// crash in its middle does nothing twice.
func (c *Controller) act(ctx context.Context, w *commandv1.Workflow, s *Step) error {
	id := func(part string) string {
		return fmt.Sprintf("workflow/%s/%d/%s", w.GetId(), s.Command.GetNext(), part)
	}
	if r := s.PutRecommendation; r != nil {
		if c.machine.Recommendation(r.GetId()) == nil {
			if err := c.propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_RECOMMENDATION, &commandv1.PutRecommendation{Recommendation: r}, "", w); err != nil {
				return err
			}
		}
	}
	if s.CreateRollout != nil && c.machine.Rollout(s.CreateRollout.GetId()) == nil {
		err := c.propose(ctx, commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, s.CreateRollout, id("rollout"), w)
		if refusal := new(fsm.Refusal); errors.As(err, &refusal) {
			s.Command.Next, s.Command.RolloutId = failed, ""
			s.Command.Note, s.Command.EndReason = refusal.Message, "the rollout was refused: "+refusal.Message
		} else if err != nil {
			return err
		}
	}
	if s.Decide != nil && s.Decide.GetId() != "" {
		if err := c.propose(ctx, commandv1.CommandType_COMMAND_TYPE_DECIDE_RECOMMENDATION, s.Decide, id("decide"), w); err != nil {
			return err
		}
	}
	return c.propose(ctx, commandv1.CommandType_COMMAND_TYPE_STEP_WORKFLOW, s.Command, "", w)
}

func (c *Controller) propose(ctx context.Context, typ commandv1.CommandType, m proto.Message, id string, w *commandv1.Workflow) error {
	res, err := c.log.Propose(ctx, typ, m, id, "workflow "+w.GetId())
	if err != nil {
		return err
	}
	return res.Err()
}

// observe finds out what the present state needs to know.
func (c *Controller) observe(ctx context.Context, w *commandv1.Workflow) Observation {
	o := Observation{Now: c.now()}
	switch w.GetState() {
	case collecting:
		if from := time.UnixMilli(w.GetCollectFromMs()); o.Now.Sub(from) >= c.cfg.Collect {
			o.Findings, o.Err = c.advisor.Findings(ctx, w.GetGroup())
			o.Measured, _ = c.advisor.Measure(ctx, w.GetGroup(), o.Now.Add(-c.cfg.Collect), o.Now)
		}
	case diagnosed:
		o.Recommendation, o.Err = c.recommendation(ctx, w)
	case proposed, screened, decided:
		if c.budget != nil {
			o.Budget = c.budget.Gate(w.GetGroup())
		}
		o.Recommendation = c.machine.Recommendation(w.GetRecommendationId())
		for _, q := range c.machine.Quarantines() {
			if q.GetGroup() == w.GetGroup() && q.GetBodyHash() == o.Recommendation.GetBodyHash() {
				o.Quarantined = q.GetReason()
			}
		}
	case rollingOut:
		o.Rollout = c.machine.Rollout(w.GetRolloutId())
	case verifying:
		o.Rollout = c.machine.Rollout(w.GetRolloutId())
		if since := time.UnixMilli(o.Rollout.GetEndedMs()); o.Now.Sub(since) >= c.cfg.Verify {
			o.Measured, o.Err = c.advisor.Measure(ctx, w.GetGroup(), o.Now.Add(-c.cfg.Verify), o.Now)
		}
	}
	return o
}

// recommendation asks for a proposal under an id that belongs to the workflow: a repeated step
// replaces nothing.
func (c *Controller) recommendation(ctx context.Context, w *commandv1.Workflow) (*commandv1.Recommendation, error) {
	id := "p" + w.GetId()[1:]
	if r := c.machine.Recommendation(id); r != nil {
		return r, nil
	}
	r, err := c.advisor.Recommend(ctx, w.GetGroup(), nil)
	if err != nil {
		return nil, err
	}
	r.Id = id
	return r, nil
}

// schedule starts workflows for idle groups in auto mode.
func (c *Controller) schedule(ctx context.Context) error {
	if c.cfg.Every <= 0 {
		return nil
	}
	now := c.now()
	for _, g := range c.machine.Groups() {
		if g.GetPolicy().GetMode() != commandv1.Mode_MODE_AUTO || g.GetLockHolder() != "" {
			continue
		}
		last := int64(0)
		busy := false
		for _, w := range c.machine.Workflows(g.GetName()) {
			busy = busy || !Ended(w)
			last = max(last, w.GetEndedMs())
		}
		if busy || now.Sub(time.UnixMilli(last)) < c.cfg.Every {
			continue
		}
		id := fmt.Sprintf("w-%s-%d", g.GetName(), now.UnixMilli())
		cmd := &commandv1.CreateWorkflow{Id: id, Group: g.GetName(), Mode: commandv1.Mode_MODE_AUTO}
		res, err := c.log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_CREATE_WORKFLOW, cmd, "workflow/"+id, "scheduler")
		if err := errors.Join(err, res.Err()); err != nil {
			return err
		}
	}
	return nil
}
