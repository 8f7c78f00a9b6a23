package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

type groupQuery struct {
	Group string `query:"group" required:"true"`
}

type optimizeInput struct {
	WriteHeaders
	Body struct {
		Group string `json:"group"`
	}
}

// Bottlenecks of a group, primary cause first.
type Bottlenecks struct {
	Group    string    `json:"group"`
	Findings []Finding `json:"findings"`
}

// families of knobs by route.
var families = map[string]string{
	"kv-cache": "kv_cache", "quantize": "quantization", "batch": "batching", "parallelism": "parallelism",
}

func (s *Server) optimizeRoutes() {
	huma.Register(s.api, op(http.MethodGet, "/optimize/bottlenecks", "bottlenecks", "What limits a group now", "optimize"),
		func(ctx context.Context, in *groupQuery) (*body[Bottlenecks], error) {
			fs, err := s.advisor.Findings(ctx, in.Group)
			if err != nil {
				return nil, fromError(err)
			}
			return ok(s, Bottlenecks{Group: in.Group, Findings: findingViews(fs)})
		})
	for route, family := range families {
		huma.Register(s.api, op(http.MethodPost, "/optimize/"+route, "optimize-"+route, "Propose "+family+" settings for a group", "optimize"), s.recommend(family))
	}
	huma.Register(s.api, op(http.MethodGet, "/optimize/recommendations", "list-recommendations", "Recommendations, newest first", "optimize"),
		func(_ context.Context, in *struct {
			PageInput
			Group string `query:"group"`
		},
		) (*body[List[Recommendation]], error) {
			var out []Recommendation
			for _, r := range s.machine.Recommendations(in.Group) {
				out = append(out, recommendationView(r))
			}
			return ok(s, page(out, in.PageInput, func(r Recommendation) string { return r.ID }))
		})
	huma.Register(s.api, op(http.MethodGet, "/optimize/recommendations/{id}", "get-recommendation", "One recommendation", "optimize"),
		func(_ context.Context, in *idInput) (*body[Recommendation], error) {
			r := s.machine.Recommendation(in.ID)
			if r == nil {
				return nil, notFound("recommendation", in.ID)
			}
			return ok(s, recommendationView(r))
		})
	huma.Register(s.api, op(http.MethodGet, "/optimize/recommendations/{id}/export", "export-recommendation", "A recommendation as flags, environment, the engine's configuration file and a pod's fields", "optimize"), s.exportRecommendation)
	huma.Register(s.api, op(http.MethodPost, "/optimize/recommendations/{id}/approve", "approve-recommendation", "Approve a recommendation and start its rollout", "optimize"), s.approveRecommendation)
	huma.Register(s.api, op(http.MethodPost, "/optimize/recommendations/{id}/reject", "reject-recommendation", "Reject a recommendation", "optimize"), s.rejectRecommendation)
}

// recommend computes a proposal and keeps it.
func (s *Server) recommend(family string) func(context.Context, *optimizeInput) (*body[Recommendation], error) {
	return func(ctx context.Context, in *optimizeInput) (*body[Recommendation], error) {
		if s.machine.Group(in.Body.Group) == nil {
			return nil, notFound("group", in.Body.Group)
		}
		r, err := s.advisor.Recommend(ctx, in.Body.Group, []string{family})
		if err != nil {
			return nil, fromError(err)
		}
		cmd := &commandv1.PutRecommendation{Recommendation: r}
		if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_RECOMMENDATION, cmd, in.IdempotencyKey); err != nil {
			return nil, err
		}
		if kept := s.machine.Recommendation(r.GetId()); kept != nil {
			r = kept
		}
		return ok(s, recommendationView(r))
	}
}

func (s *Server) exportRecommendation(_ context.Context, in *idInput) (*body[Export], error) {
	r := s.machine.Recommendation(in.ID)
	if r == nil {
		return nil, notFound("recommendation", in.ID)
	}
	if len(r.GetSettings()) == 0 {
		return nil, newProblem(http.StatusConflict, "the recommendation changes nothing: "+r.GetTitle())
	}
	var knobs []*enginev1.Knob
	for _, engine := range s.machine.Instances(r.GetGroup()) {
		if t := s.machine.KnobTable(engine.GetKnobTableHash()); t != nil {
			knobs = t.GetDescription().GetKnobs()
			break
		}
	}
	e, err := exportOf(r, s.machine.Group(r.GetGroup()).GetEngine(), knobs)
	if err != nil {
		return nil, newProblem(http.StatusConflict, err.Error())
	}
	return ok(s, e)
}

func (s *Server) approveRecommendation(ctx context.Context, in *reasonInput) (*body[Rollout], error) {
	r := s.machine.Recommendation(in.ID)
	if r == nil {
		return nil, notFound("recommendation", in.ID)
	}
	if r.GetStatus() != "open" {
		return nil, newProblem(http.StatusConflict, "the recommendation is "+r.GetStatus()+"; only an open one can be approved")
	}
	cmd := &commandv1.CreateRollout{
		Group: r.GetGroup(), Body: bodyOf(s, r.GetGroup(), r.GetSettings()), Reason: r.GetTitle(), RecommendationId: r.GetId(), ApprovedBy: approver(true),
	}
	if err := s.allowed(cmd); err != nil {
		return nil, err // before it is marked as approved
	}
	if err := s.decide(ctx, in, "approved"); err != nil {
		return nil, err
	}
	return s.startRollout(ctx, in.IdempotencyKey, cmd)
}

func (s *Server) rejectRecommendation(ctx context.Context, in *reasonInput) (*body[Recommendation], error) {
	if err := s.decide(ctx, in, "rejected"); err != nil {
		return nil, err
	}
	r := s.machine.Recommendation(in.ID)
	return ok(s, recommendationView(r))
}

func (s *Server) decide(ctx context.Context, in *reasonInput, status string) error {
	cmd := &commandv1.DecideRecommendation{Id: in.ID, Status: status, Reason: in.Body.Reason}
	key := in.IdempotencyKey
	if key != "" {
		key += "/decide"
	}
	_, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_DECIDE_RECOMMENDATION, cmd, key)
	return err
}
