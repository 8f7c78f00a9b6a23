package api

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

type startRolloutInput struct {
	WriteHeaders
	Body struct {
		Group              string            `json:"group"`
		Settings           map[string]string `json:"settings" doc:"the complete set of knobs on top of the operator's command line"`
		Reason             string            `json:"reason,omitempty" maxLength:"500"`
		OverrideQuarantine bool              `json:"override_quarantine,omitempty"`
		Fix                bool              `json:"fix,omitempty" doc:"it repairs what burns the error budget: a freeze does not hold it"`
		Approved           bool              `json:"approved,omitempty" doc:"what it may cost of the error budget is accepted"`
		RollsForwardFrom   string            `json:"rolls_forward_from,omitempty" doc:"id of an incomplete rollback that this rollout repairs"`
	}
}

type stepInput struct {
	WriteHeaders
	Body struct {
		ID     string `json:"id" doc:"rollout"`
		Reason string `json:"reason,omitempty" maxLength:"500"`
	}
}

type rolloutQuery struct {
	PageInput
	Group string `query:"group"`
}

func (s *Server) rolloutRoutes() {
	huma.Register(s.api, op(http.MethodPost, "/rollout/start", "start-rollout", "Start a rollout of settings for a group", "rollout"),
		func(ctx context.Context, in *startRolloutInput) (*body[Rollout], error) {
			b := in.Body
			return s.startRollout(ctx, in.IdempotencyKey, &commandv1.CreateRollout{
				Group: b.Group, Body: bodyOf(s, b.Group, b.Settings), Reason: b.Reason,
				OverrideQuarantine: b.OverrideQuarantine, RollsForwardFrom: b.RollsForwardFrom, Fix: b.Fix, ApprovedBy: approver(b.Approved),
			})
		})
	s.rolloutStep("rollback", "Abort a rollout and take it back", func(reason string) *commandv1.StepRollout {
		return &commandv1.StepRollout{Step: &commandv1.StepRollout_Abort{Abort: &commandv1.Abort{Reason: reason}}}
	})
	s.rolloutStep("pause", "Pause a rollout; its guards keep running", func(reason string) *commandv1.StepRollout {
		return &commandv1.StepRollout{Step: &commandv1.StepRollout_Pause{Pause: &commandv1.Pause{Reason: reason}}}
	})
	s.rolloutStep("resume", "Resume a paused rollout", func(string) *commandv1.StepRollout {
		return &commandv1.StepRollout{Step: &commandv1.StepRollout_Resume{Resume: &commandv1.Resume{}}}
	})
	s.rolloutStep("promote", "Pass the present wave, or end the bake, without waiting for more evidence", func(reason string) *commandv1.StepRollout {
		return &commandv1.StepRollout{Step: &commandv1.StepRollout_Promote{Promote: &commandv1.Promote{Reason: reason}}}
	})
	huma.Register(s.api, op(http.MethodGet, "/rollout/status", "rollout-status", "Rollouts that have not ended", "rollout"),
		func(_ context.Context, in *rolloutQuery) (*body[List[Rollout]], error) { return s.rollouts(in, false) })
	huma.Register(s.api, op(http.MethodGet, "/rollout/history", "rollout-history", "Rollouts that have ended, newest first", "rollout"),
		func(_ context.Context, in *rolloutQuery) (*body[List[Rollout]], error) { return s.rollouts(in, true) })
	huma.Register(s.api, op(http.MethodGet, "/rollout/{id}", "get-rollout", "One rollout", "rollout"),
		func(_ context.Context, in *idInput) (*body[Rollout], error) {
			r := s.machine.Rollout(in.ID)
			if r == nil {
				return nil, notFound("rollout", in.ID)
			}
			return ok(s, s.rolloutView(r))
		})
}

func (s *Server) rollouts(in *rolloutQuery, ended bool) (*body[List[Rollout]], error) {
	var out []Rollout
	for _, r := range s.machine.Rollouts(in.Group) {
		if (r.GetEndedMs() > 0) == ended {
			out = append(out, s.rolloutView(r))
		}
	}
	return ok(s, page(out, in.PageInput, func(r Rollout) string { return r.ID }))
}

// bodyOf makes the configuration body of a group's engine.
func bodyOf(s *Server, group string, settings map[string]string) *agentv1.Body {
	g := s.machine.Group(group)
	return &agentv1.Body{Engine: g.GetEngine(), Settings: settings}
}

// approver is who accepts the cost of a rollout: the one who asks for it.
func approver(approved bool) string {
	if approved {
		return "operator"
	}
	return ""
}

// startRollout creates a rollout; the rollout loop validates, queues and starts it.
func (s *Server) startRollout(ctx context.Context, key string, cmd *commandv1.CreateRollout) (*body[Rollout], error) {
	if s.machine.Group(cmd.GetGroup()) == nil {
		return nil, notFound("group", cmd.GetGroup())
	}
	cmd.Id, cmd.Seed = rolloutID(key), rolloutSeed(key)
	if err := s.allowed(cmd); err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, cmd, key)
	if err != nil {
		return nil, err
	}
	id := cmd.GetId()
	if res.ObjectID != "" {
		id = res.ObjectID
	}
	r := s.machine.Rollout(id)
	if r == nil {
		return nil, notFound("rollout", id)
	}
	return ok(s, s.rolloutView(r))
}

// rolloutID and rolloutSeed are derived from the request key where there is one, so that a
// repeated request is the same command to the letter.
func rolloutID(key string) string {
	if key == "" {
		return "r-" + uuid.NewString()[:13]
	}
	return "r-" + uuid.NewSHA1(uuid.NameSpaceOID, []byte(key)).String()[:13]
}

func rolloutSeed(key string) uint64 {
	if key == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		return binary.BigEndian.Uint64(b[:])
	}
	u := uuid.NewSHA1(uuid.NameSpaceURL, []byte(key))
	return binary.BigEndian.Uint64(u[:8])
}

// rolloutStep serves POST /rollout/NAME with one transition.
func (s *Server) rolloutStep(name, summary string, step func(reason string) *commandv1.StepRollout) {
	huma.Register(s.api, op(http.MethodPost, "/rollout/"+name, name+"-rollout", summary, "rollout"),
		func(ctx context.Context, in *stepInput) (*body[Rollout], error) {
			cmd := step(in.Body.Reason)
			cmd.RolloutId = in.Body.ID
			return s.stepRollout(ctx, in, cmd)
		})
}

func (s *Server) stepRollout(ctx context.Context, in *stepInput, cmd *commandv1.StepRollout) (*body[Rollout], error) {
	if s.machine.Rollout(in.Body.ID) == nil {
		return nil, notFound("rollout", in.Body.ID)
	}
	if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT, cmd, in.IdempotencyKey); err != nil {
		return nil, err
	}
	r := s.machine.Rollout(in.Body.ID)
	return ok(s, s.rolloutView(r))
}
