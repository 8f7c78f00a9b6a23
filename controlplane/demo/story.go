package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

// killInWave is the wave (counted from 0) in which the leader is killed.
const killInWave = 2

// improve lets the unattended workflow find and roll out a better configuration, and kills the
// leader in the middle of a wave.
func (s *story) improve(ctx context.Context) error {
	s.say("asking the control plane to improve chat by itself (mode auto)")
	var w api.Workflow
	if err := s.control.post(ctx, "/workflows", "demo-workflow", map[string]string{"group": "chat", "mode": "auto"}, &w); err != nil {
		return fmt.Errorf("start the workflow: %w", err)
	}
	events := s.narrate(ctx)
	defer events()
	limit, cancel := context.WithTimeout(ctx, rollTimeout)
	defer cancel()
	killed := false
	err := client.Wait(limit, 250*time.Millisecond, func(ctx context.Context) (bool, error) {
		if err := s.procs.check(); err != nil {
			return false, err
		}
		if err := s.control.get(ctx, "/workflows/"+w.ID, &w); err != nil {
			return false, err
		}
		if w.RolloutID != "" && !killed {
			var err error
			if killed, err = s.killLeaderInWave(ctx, w.RolloutID); err != nil {
				return false, err
			}
		}
		return w.Ended != nil, nil
	})
	if err != nil {
		return fmt.Errorf("the workflow is %s after %s: %w", w.State, rollTimeout, err)
	}
	return s.judgeImprovement(ctx, w, killed)
}

// judgeImprovement keeps what the workflow reached, or says why it did not.
func (s *story) judgeImprovement(ctx context.Context, w api.Workflow, killed bool) error {
	var rec api.Recommendation
	if w.RecommendationID != "" {
		if err := s.control.get(ctx, "/optimize/recommendations/"+w.RecommendationID, &rec); err != nil {
			return err
		}
	}
	if w.State != "learned" || w.RolloutID == "" {
		return fmt.Errorf("the workflow ended %s: %s", w.State, w.EndReason)
	}
	var r api.Rollout
	if err := s.control.get(ctx, "/rollout/"+w.RolloutID, &r); err != nil {
		return err
	}
	if r.State != "succeeded" {
		return fmt.Errorf("the rollout ended %s: %s", r.State, r.EndReason)
	}
	s.promoted = *r.Ended
	if !killed {
		return errors.New("the rollout ended before the leader could be killed in its third wave")
	}
	s.report.Finding, s.report.Proposal, s.report.Waves = rec.Finding.Summary, rec.Title, len(r.Waves)
	s.report.Predicted = map[string]Predicted{}
	for name, p := range rec.Predicted {
		s.report.Predicted[name] = Predicted{Value: p.Value, Low: p.Low, High: p.High}
	}
	return nil
}

// killLeaderInWave kills the leader once replicas of the chosen wave are being changed. It reports
// whether it has been done.
func (s *story) killLeaderInWave(ctx context.Context, rollout string) (bool, error) {
	var r api.Rollout
	if err := s.control.get(ctx, "/rollout/"+rollout, &r); err != nil {
		return false, err
	}
	changing := r.State == "draining" || r.State == "applying" || r.State == "warming"
	if len(r.Waves) != killInWave+1 || !changing {
		return false, nil
	}
	leader := s.control.leader(ctx)
	victim := s.fleet.control[leader]
	if victim == nil {
		return false, nil // an election runs; look again
	}
	s.say("KILL -9 of the leader %s in the middle of wave %d", leader, killInWave+1)
	began := time.Now()
	s.procs.kill(victim)
	err := client.Wait(ctx, 50*time.Millisecond, func(ctx context.Context) (bool, error) {
		next := s.control.leader(ctx)
		return next != "" && next != leader, ctx.Err()
	})
	if err != nil {
		return false, fmt.Errorf("no new leader: %w", err)
	}
	s.report.LeaderGapSeconds = time.Since(began).Seconds()
	s.say("%s leads after %.1f s; the wave goes on from the log", s.control.leader(ctx), s.report.LeaderGapSeconds)
	if err := s.fleet.startNode(s.procs, leader); err != nil {
		return false, err
	}
	s.say("%s is started again and catches up", leader)
	return true, nil
}

// narrate prints the fleet's events as they come, from whichever node answers. The result ends it.
func (s *story) narrate(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		since := s.lastEvent(ctx)
		for ctx.Err() == nil {
			since, _ = s.control.current().Events(ctx, since, func(e api.Event) error {
				if e.Group == "chat" && tellable(e) {
					s.say("  %s", e.Text)
				}
				return nil
			})
			s.control.next()
			_ = pause(ctx, 200*time.Millisecond) // its error is ctx's, which the loop looks at
		}
	}()
	return func() { cancel(); <-ended }
}

// tellable leaves out events of single agents: a wave of them is one line elsewhere.
func tellable(e api.Event) bool {
	return e.Kind != "agent" && e.Kind != "instance" && strings.TrimSpace(e.Text) != ""
}

// lastEvent is where the history stands now.
func (s *story) lastEvent(ctx context.Context) uint64 {
	var h api.ClusterHealth
	if s.control.get(ctx, "/health/cluster", &h) != nil {
		return 0
	}
	return h.AppliedIndex
}

// measureAfter measures chat since the promotion: the workflow has just done the same.
func (s *story) measureAfter(context.Context) error {
	var err error
	if s.report.After, err = s.fleet.measure("chat", s.promoted.Add(time.Second), time.Now()); err != nil {
		return err
	}
	a := s.report.After
	s.say("chat now: TTFT p95 %.2f s, E2E p95 %.2f s, %.0f %% of requests within the objectives, over %.0f s", a.TTFT.P95, a.E2E.P95, 100*a.GoodShare, a.Seconds)
	return nil
}

// badSettings is a slip that happens: 16 where 16384 was meant.
var badSettings = map[string]string{"max_num_batched_tokens": "16", "max_num_seqs": "16"}

// plantBadProposal starts a rollout that hurts and watches it being taken back.
func (s *story) plantBadProposal(ctx context.Context) error {
	s.say("planting a bad proposal for chat: %v (a slip: 16 for 16384)", badSettings)
	var r api.Rollout
	in := map[string]any{"group": "chat", "settings": badSettings, "reason": "planted by the demo"}
	if err := s.control.post(ctx, "/rollout/start", "demo-bad", in, &r); err != nil {
		return fmt.Errorf("start the bad rollout: %w", err)
	}
	events := s.narrate(ctx)
	defer events()
	limit, cancel := context.WithTimeout(ctx, rollTimeout)
	defer cancel()
	err := client.Wait(limit, 250*time.Millisecond, func(ctx context.Context) (bool, error) {
		if err := s.procs.check(); err != nil {
			return false, err
		}
		err := s.control.get(ctx, "/rollout/"+r.ID, &r)
		return r.Ended != nil, err
	})
	if err != nil {
		return fmt.Errorf("the bad rollout is %s after %s: %w", r.State, rollTimeout, err)
	}
	s.report.Bad = BadProposal{Settings: badSettings, State: r.State, Reason: r.EndReason, MitigateSeconds: r.MitigateSeconds, RestoreSeconds: r.RestoreSeconds}
	if r.State != "rolled_back" {
		return fmt.Errorf("the bad rollout ended %s, not rolled back: %s", r.State, r.EndReason)
	}
	s.say("taken back: out of rotation after %.1f s, restored after %.1f s", r.MitigateSeconds, r.RestoreSeconds)
	return nil
}
