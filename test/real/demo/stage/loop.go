package stage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

// Limits of waiting for the control plane. A rollout of two replicas restarts twice, and an engine
// that starts beside a loaded one on two cores takes two minutes.
const (
	improveLimit = 10 * time.Minute
	rolloutLimit = 10 * time.Minute
)

// Say prints one line of a story; nil says nothing.
type Say func(format string, args ...any)

// Improvement is what an unattended workflow did.
type Improvement struct {
	Workflow       api.Workflow
	Recommendation api.Recommendation
	Rollout        api.Rollout
}

// Improve starts a workflow in auto mode and follows it to its end. The error says why nothing was
// promoted.
func (s *Stage) Improve(ctx context.Context, say Say) (Improvement, error) {
	var out Improvement
	in := map[string]string{"group": Group, "mode": "auto"}
	if err := s.Control.Post(ctx, "/workflows", "improve", in, &out.Workflow); err != nil {
		return out, fmt.Errorf("start the workflow: %w", err)
	}
	defer s.narrate(ctx, say)()
	limit, cancel := context.WithTimeout(ctx, improveLimit)
	defer cancel()
	err := client.Wait(limit, 500*time.Millisecond, func(ctx context.Context) (bool, error) {
		err := s.Control.Get(ctx, "/workflows/"+out.Workflow.ID, &out.Workflow)
		return out.Workflow.Ended != nil, err
	})
	w := out.Workflow
	if err != nil {
		return out, fmt.Errorf("the workflow is %s: %w\n%s", w.State, err, history(w.Notes))
	}
	if w.RecommendationID != "" {
		if err := s.Control.Get(ctx, "/optimize/recommendations/"+w.RecommendationID, &out.Recommendation); err != nil {
			return out, err
		}
	}
	if w.RolloutID != "" {
		if err := s.Control.Get(ctx, "/rollout/"+w.RolloutID, &out.Rollout); err != nil {
			return out, err
		}
	}
	if w.State != "learned" || out.Rollout.State != "succeeded" {
		return out, fmt.Errorf("the workflow ended %s: %s; rollout %s\n%s%s", w.State, w.EndReason, out.Rollout.State, history(w.Notes), history(out.Rollout.Notes))
	}
	return out, nil
}

// Roll starts a rollout of settings on top of the operator's own and waits for its end.
func (s *Stage) Roll(ctx context.Context, settings map[string]string, reason string, say Say) (api.Rollout, error) {
	var r api.Rollout
	in := map[string]any{"group": Group, "settings": settings, "reason": reason}
	if err := s.Control.Post(ctx, "/rollout/start", "", in, &r); err != nil {
		return r, fmt.Errorf("start a rollout: %w", err)
	}
	defer s.narrate(ctx, say)()
	limit, cancel := context.WithTimeout(ctx, rolloutLimit)
	defer cancel()
	err := client.Wait(limit, 500*time.Millisecond, func(ctx context.Context) (bool, error) {
		err := s.Control.Get(ctx, "/rollout/"+r.ID, &r)
		return r.Ended != nil, err
	})
	if err != nil {
		return r, fmt.Errorf("the rollout is %s: %w\n%s", r.State, err, history(r.Notes))
	}
	return r, nil
}

// Pass passes the waves of the rollout that goes on, in the operator's name, until none goes on.
func (s *Stage) Pass(ctx context.Context) error {
	return client.Wait(ctx, 250*time.Millisecond, func(ctx context.Context) (bool, error) {
		var open api.List[api.Rollout]
		if err := s.Control.Get(ctx, "/rollout/status", &open); err != nil {
			return false, err
		}
		for _, r := range open.Items {
			if r.State == "observing" || r.State == "holding" {
				// The wave may have moved on meanwhile: the next look tells.
				_ = s.Control.Post(ctx, "/rollout/promote", "", map[string]string{"id": r.ID, "reason": "no verdict is wanted here"}, nil)
			}
		}
		return len(open.Items) == 0, nil
	})
}

func history(notes []api.Note) string {
	var b strings.Builder
	for _, n := range notes {
		fmt.Fprintf(&b, "  %s %s\n", n.At.Format("15:04:05"), n.Text)
	}
	return b.String()
}

// narrate says the group's events as they come, until its result is called.
func (s *Stage) narrate(ctx context.Context, say Say) (stop func()) {
	if say == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var h api.ClusterHealth
	since := uint64(0)
	if s.Control.Get(ctx, "/health/cluster", &h) == nil {
		since = h.AppliedIndex
	}
	go func() {
		defer close(ended)
		_, _ = s.Control.Events(ctx, since, func(e api.Event) error {
			if e.Group == Group && e.Kind != "agent" && strings.TrimSpace(e.Text) != "" {
				say("  %s", e.Text)
			}
			return nil
		}) // it ends with ctx
	}()
	return func() { cancel(); <-ended }
}

// Settled waits until nothing is queued at the gateway and its replicas answer as fast as requests
// come: until what piled up during a restart has been answered.
func (s *Stage) Settled(ctx context.Context) error {
	return client.Wait(ctx, 250*time.Millisecond, func(context.Context) (bool, error) {
		waiting, _ := s.gateway.Queue()
		return waiting == 0, nil
	})
}
