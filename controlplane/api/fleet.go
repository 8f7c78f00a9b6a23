package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

type idInput struct {
	ID string `path:"id"`
}

type reasonInput struct {
	WriteHeaders
	ID   string `path:"id"`
	Body struct {
		Reason string `json:"reason,omitempty" maxLength:"500"`
	}
}

// List is a page of things.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"cursor of the next page; absent on the last"`
}

// PageInput selects a page of a list.
type PageInput struct {
	Cursor string `query:"cursor" doc:"id of the last item of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"200"`
}

// page cuts one page out of items ordered by id; ids are stable, so a cursor never skips.
func page[T any](items []T, in PageInput, id func(T) string) List[T] {
	start := 0
	if in.Cursor != "" {
		start = len(items)
		for i, it := range items {
			if id(it) == in.Cursor {
				start = i + 1
				break
			}
		}
	}
	end := min(len(items), start+in.Limit)
	l := List[T]{Items: items[start:end]}
	if l.Items == nil {
		l.Items = []T{}
	}
	if end < len(items) && end > start {
		l.Next = id(items[end-1])
	}
	return l
}

// PolicyChange names what to change; fields left out keep their value.
type PolicyChange struct {
	Mode              string   `json:"mode,omitempty" yaml:"mode" enum:"advise,approve,auto"`
	Floor             uint32   `json:"floor,omitempty" yaml:"floor"`
	MaxUnavailable    uint32   `json:"max_unavailable,omitempty" yaml:"max_unavailable"`
	Reserve           float64  `json:"reserve,omitempty" yaml:"reserve" minimum:"0" maximum:"1"`
	Steps             []uint32 `json:"steps,omitempty" yaml:"steps"`
	TTFTSeconds       float64  `json:"objective_ttft_seconds,omitempty" yaml:"objective_ttft_seconds" minimum:"0"`
	TPOTSeconds       float64  `json:"objective_tpot_seconds,omitempty" yaml:"objective_tpot_seconds" minimum:"0"`
	E2ESeconds        float64  `json:"objective_e2e_seconds,omitempty" yaml:"objective_e2e_seconds" minimum:"0"`
	ObserveMinSeconds float64  `json:"observe_min_seconds,omitempty" yaml:"observe_min_seconds" minimum:"0"`
	ObserveMaxSeconds float64  `json:"observe_max_seconds,omitempty" yaml:"observe_max_seconds" minimum:"0"`
	BakeSeconds       float64  `json:"bake_seconds,omitempty" yaml:"bake_seconds" minimum:"0"`
	MinRequests       uint32   `json:"min_requests,omitempty" yaml:"min_requests"`
	ProbationSeconds  float64  `json:"probation_seconds,omitempty" yaml:"probation_seconds" minimum:"0"`
	LeaseSeconds      float64  `json:"lease_every_seconds,omitempty" yaml:"lease_every_seconds" minimum:"0"`
	Margin            float64  `json:"margin,omitempty" yaml:"margin" minimum:"0"`
	HardMargin        float64  `json:"hard_margin,omitempty" yaml:"hard_margin" minimum:"0"`
	WaveSeconds       float64  `json:"wave_deadline_seconds,omitempty" yaml:"wave_deadline_seconds" minimum:"0"`
	AllowOutage       *bool    `json:"allow_outage,omitempty" yaml:"allow_outage" doc:"a change may stop the last healthy replica while it restarts; a group of one needs it"`
}

// Proto returns the record's form.
func (p PolicyChange) Proto() *commandv1.Policy {
	ms := func(s float64) int64 { return int64(s * 1000) }
	return &commandv1.Policy{
		Mode: modes[p.Mode], Floor: p.Floor, MaxUnavailable: p.MaxUnavailable, Reserve: p.Reserve, Steps: p.Steps,
		Objectives:   &commandv1.Objectives{TtftSeconds: p.TTFTSeconds, TpotSeconds: p.TPOTSeconds, E2ESeconds: p.E2ESeconds},
		ObserveMinMs: ms(p.ObserveMinSeconds), ObserveMaxMs: ms(p.ObserveMaxSeconds), BakeMs: ms(p.BakeSeconds), MinRequests: p.MinRequests,
		ProbationMs: ms(p.ProbationSeconds), LeaseEveryMs: ms(p.LeaseSeconds), Margin: p.Margin, HardMargin: p.HardMargin,
		WaveDeadlineMs: ms(p.WaveSeconds), AllowOutage: p.AllowOutage,
	}
}

var modes = map[string]commandv1.Mode{
	"advise": commandv1.Mode_MODE_ADVISE, "approve": commandv1.Mode_MODE_APPROVE, "auto": commandv1.Mode_MODE_AUTO,
}

type putGroupInput struct {
	WriteHeaders
	ID      string `path:"id"`
	IfMatch uint64 `header:"If-Match" doc:"modify index that the change is based on; 0: any"`
	Body    PolicyChange
}

func (s *Server) fleetRoutes() {
	huma.Register(s.api, op(http.MethodGet, "/agents", "list-agents", "Agents with their engines", "fleet"),
		func(_ context.Context, in *PageInput) (*body[List[Agent]], error) {
			return ok(s, page(s.agentsView(), *in, func(a Agent) string { return a.ID }))
		})
	huma.Register(s.api, op(http.MethodGet, "/agents/{id}", "get-agent", "One agent", "fleet"),
		func(_ context.Context, in *idInput) (*body[Agent], error) {
			for _, a := range s.agentsView() {
				if a.ID == in.ID {
					return ok(s, a)
				}
			}
			return nil, notFound("agent", in.ID)
		})
	huma.Register(s.api, op(http.MethodPost, "/agents/{id}/drain", "drain-engine", "Take an engine out of rotation (id or name of the engine)", "fleet"), s.drain(true))
	huma.Register(s.api, op(http.MethodPost, "/agents/{id}/undrain", "undrain-engine", "Put a drained engine back into rotation", "fleet"), s.drain(false))
	huma.Register(s.api, op(http.MethodGet, "/groups", "list-groups", "Groups", "fleet"),
		func(_ context.Context, in *PageInput) (*body[List[Group]], error) {
			var out []Group
			for _, g := range s.machine.Groups() {
				out = append(out, s.groupView(g, false))
			}
			return ok(s, page(out, *in, func(g Group) string { return g.Name }))
		})
	huma.Register(s.api, op(http.MethodGet, "/groups/{id}", "get-group", "One group with its engines", "fleet"),
		func(_ context.Context, in *idInput) (*body[Group], error) {
			g := s.machine.Group(in.ID)
			if g == nil {
				return nil, notFound("group", in.ID)
			}
			return ok(s, s.groupView(g, true))
		})
	huma.Register(s.api, op(http.MethodPut, "/groups/{id}", "put-group", "Create a group or change its policy", "fleet"), s.putGroup)
}

func (s *Server) drain(drained bool) func(context.Context, *reasonInput) (*body[Engine], error) {
	return func(ctx context.Context, in *reasonInput) (*body[Engine], error) {
		e, err := s.findEngine(in.ID)
		if err != nil {
			return nil, err
		}
		cmd := &commandv1.SetOperatorDrain{InstanceId: e.GetId(), Drained: drained, Reason: in.Body.Reason}
		if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, cmd, in.IdempotencyKey); err != nil {
			return nil, err
		}
		e = s.machine.Instance(e.GetId())
		return ok(s, s.engineView(e))
	}
}

func (s *Server) putGroup(ctx context.Context, in *putGroupInput) (*body[Group], error) {
	cmd := &commandv1.PutGroup{Name: in.ID, Policy: in.Body.Proto(), IfMatch: in.IfMatch}
	if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, cmd, in.IdempotencyKey); err != nil {
		return nil, err
	}
	g := s.machine.Group(in.ID)
	return ok(s, s.groupView(g, true))
}
