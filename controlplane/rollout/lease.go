package rollout

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// leaseTimeout bounds one renewal, leaseWidth how many are under way at once.
const (
	leaseTimeout = 2 * time.Second
	leaseWidth   = 16
)

// renew extends the probation of replicas in every state that has not begun mitigation, Paused and
// Holding included. It has a goroutine of its own, so that a slow commit does not let leases run
// out. A new leader renews at once.
func (c *Controller) renew(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Every)
	defer tick.Stop()
	renewed := map[string]time.Time{}
	for {
		c.renewDue(ctx, renewed)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lease is one renewal.
type lease struct {
	instance string
	epoch    uint64
	extend   time.Duration
}

func (c *Controller) renewDue(ctx context.Context, renewed map[string]time.Time) {
	due := c.due(renewed)
	if len(due) == 0 {
		return
	}
	if err := c.leadership.VerifyLeader(ctx); err != nil {
		c.logger.Warn("leases were not renewed: leadership is not certain", "error", err)
		return
	}
	var g errgroup.Group
	g.SetLimit(leaseWidth)
	sent := make([]bool, len(due))
	for k, l := range due {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
			defer cancel()
			if err := c.fleet.Lease(ctx, l.instance, l.epoch, l.extend); err != nil {
				c.logger.Warn("lease was not renewed", "instance", l.instance, "epoch", l.epoch, "error", err)
				return nil
			}
			sent[k] = true
			return nil
		})
	}
	_ = g.Wait() // failures are logged above and tried again at the next turn
	for k, l := range due {
		if sent[k] {
			renewed[l.instance] = c.cfg.Now()
		}
	}
}

// due lists the leases to renew now.
func (c *Controller) due(renewed map[string]time.Time) []lease {
	now := c.cfg.Now()
	var due []lease
	for _, r := range c.state.OpenRollouts() {
		if r.GetEpoch() == 0 || fsm.TakingBack(r.GetState()) {
			continue
		}
		every := time.Duration(r.GetPolicy().GetLeaseEveryMs()) * time.Millisecond
		for _, i := range c.state.Instances(r.GetGroup()) {
			if OnProbation(r, i) && now.Sub(renewed[i.GetId()]) >= every {
				due = append(due, lease{i.GetId(), r.GetEpoch(), time.Duration(r.GetPolicy().GetProbationMs()) * time.Millisecond})
			}
		}
	}
	return due
}

// OnProbation reports whether the instance depends on leases for the rollout's epoch: it serves on
// probation and the wave has not been confirmed.
func OnProbation(r *commandv1.Rollout, i *commandv1.Instance) bool {
	return i.GetReachable() && fsm.WasOffered(r, i.GetId()) &&
		i.GetState().GetPhase() == agentv1.Phase_PHASE_PROBATION && i.GetState().GetRunningEpoch() == r.GetEpoch()
}
