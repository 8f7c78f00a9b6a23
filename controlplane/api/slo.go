package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Promises knows how objectives stand. It runs on the leader.
type Promises interface {
	// Standing of one objective.
	Standing(o *commandv1.Objective) Standing
	// Gate is what the error budgets of a group allow of a rollout now; nil: nothing was promised.
	Gate(group string) *commandv1.BudgetGate
	// Spent is what a rollout has cost of error budgets so far.
	Spent(r *commandv1.Rollout) []*commandv1.BudgetSpend
	// Import reads OpenSLO v1 documents; the error tells everything that is wrong with them.
	Import(raw []byte) (objectives []*commandv1.Objective, remarks []string, err error)
	// Export writes OpenSLO v1 documents.
	Export(objectives []*commandv1.Objective) ([]byte, error)
	// Query parses PromQL and renders it anew.
	Query(text string) (string, error)
}

type objectiveInput struct {
	WriteHeaders
	IfMatch uint64 `header:"If-Match" doc:"modify index that the change is based on; 0: any"`
	Body    ObjectiveSpec
}

type namedObjectiveInput struct {
	WriteHeaders
	IfMatch uint64 `header:"If-Match" doc:"modify index that the change is based on; 0: any"`
	Name    string `path:"name"`
	Body    ObjectiveSpec
}

type deleteObjectiveInput struct {
	WriteHeaders
	IfMatch uint64 `header:"If-Match" doc:"modify index that the removal is based on; 0: any"`
	Name    string `path:"name"`
}

type nameInput struct {
	Name string `path:"name"`
}

type objectivesQuery struct {
	PageInput
	Service string `query:"service"`
	Group   string `query:"group"`
}

type violationsQuery struct {
	PageInput
	Objective string `query:"objective"`
	Open      bool   `query:"open" doc:"those that last, alone"`
}

type importInput struct {
	WriteHeaders
	DryRun  bool   `query:"dry_run" doc:"read and check alone"`
	RawBody []byte `contentType:"application/yaml"`
}

type exportOutput struct {
	Index       int64  `header:"X-Applied-Index"`
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// tagged is an answer with the version of what it holds.
type tagged[T any] struct {
	Index int64  `header:"X-Applied-Index" doc:"Log index that this node had applied."`
	ETag  string `header:"ETag" doc:"Version of the object; give it back as If-Match."`
	Body  T
}

type budgetPolicyInput struct {
	WriteHeaders
	IfMatch uint64 `header:"If-Match" doc:"modify index that the change is based on; 0: any"`
	Service string `path:"service"`
	Body    BudgetPolicy
}

func (s *Server) sloRoutes() {
	huma.Register(s.api, op(http.MethodPost, "/slo/configure", "configure-slo", "Create or replace an objective", "slo"),
		func(ctx context.Context, in *objectiveInput) (*tagged[Objective], error) {
			return s.putObjective(ctx, in.IdempotencyKey, in.IfMatch, in.Body)
		})
	huma.Register(s.api, op(http.MethodPut, "/slo/{name}", "put-slo", "Create or replace the objective of that name", "slo"),
		func(ctx context.Context, in *namedObjectiveInput) (*tagged[Objective], error) {
			if in.Body.Name != "" && in.Body.Name != in.Name {
				return nil, newProblem(http.StatusUnprocessableEntity, fmt.Sprintf("the objective is called %q in its content and %q in the path", in.Body.Name, in.Name))
			}
			in.Body.Name = in.Name
			return s.putObjective(ctx, in.IdempotencyKey, in.IfMatch, in.Body)
		})
	huma.Register(s.api, op(http.MethodGet, "/slo/status", "list-slos", "Objectives and how they stand", "slo"), s.listObjectives)
	huma.Register(s.api, op(http.MethodGet, "/slo/budget", "list-error-budgets", "Error budgets, and what they allow of rollouts", "slo"), s.listBudgets)
	huma.Register(s.api, op(http.MethodGet, "/slo/alerts", "list-slo-alerts", "Alerts that fire now", "slo"), s.listAlerts)
	huma.Register(s.api, op(http.MethodGet, "/slo/violations", "list-slo-violations", "Violations, newest first", "slo"), s.listViolations)
	huma.Register(s.api, op(http.MethodGet, "/slo/export", "export-slos", "Objectives as OpenSLO v1 documents", "slo"), s.exportObjectives)
	imports := op(http.MethodPost, "/slo/import", "import-slos", "Objectives from OpenSLO v1 documents (YAML), all or none", "slo")
	huma.Register(s.api, imports, s.importObjectives)
	huma.Register(s.api, op(http.MethodGet, "/slo/policy/{service}", "get-error-budget-policy", "What rollouts may do with a service's error budget", "slo"),
		func(_ context.Context, in *struct {
			Service string `path:"service"`
		},
		) (*tagged[BudgetPolicy], error) {
			return tag(s, s.machine.BudgetPolicy(in.Service).GetModifyIndex(), budgetPolicyView(s.machine.BudgetPolicy(in.Service))), nil
		})
	huma.Register(s.api, op(http.MethodPut, "/slo/policy/{service}", "put-error-budget-policy", "Change what rollouts may do with a service's error budget", "slo"), s.putBudgetPolicy)
	huma.Register(s.api, op(http.MethodGet, "/slo/{name}", "get-slo", "One objective and how it stands", "slo"),
		func(_ context.Context, in *nameInput) (*tagged[Objective], error) {
			o := s.machine.Objective(in.Name)
			if o == nil {
				return nil, notFound("objective", in.Name)
			}
			return tag(s, o.GetModifyIndex(), s.objectiveView(o)), nil
		})
	huma.Register(s.api, op(http.MethodDelete, "/slo/{name}", "delete-slo", "Remove an objective with its error budget", "slo"), s.deleteObjective)
}

func tag[T any](s *Server, modifyIndex uint64, v T) *tagged[T] {
	return &tagged[T]{Index: int64(s.machine.Index()), ETag: fmt.Sprintf("%d", modifyIndex), Body: v}
}

func (s *Server) putObjective(ctx context.Context, key string, ifMatch uint64, spec ObjectiveSpec) (*tagged[Objective], error) {
	o, err := s.objectiveOf(spec)
	if err != nil {
		return nil, err
	}
	cmd := &commandv1.PutObjectives{Objectives: []*commandv1.Objective{o}, IfMatch: ifMatch}
	if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_OBJECTIVES, cmd, key); err != nil {
		return nil, err
	}
	kept := s.machine.Objective(o.GetName())
	if kept == nil { // somebody removed it meanwhile
		return nil, notFound("objective", o.GetName())
	}
	return tag(s, kept.GetModifyIndex(), s.objectiveView(kept)), nil
}

func (s *Server) deleteObjective(ctx context.Context, in *deleteObjectiveInput) (*body[RemovedObjective], error) {
	cmd := &commandv1.DeleteObjective{Name: in.Name, IfMatch: in.IfMatch}
	if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_DELETE_OBJECTIVE, cmd, in.IdempotencyKey); err != nil {
		return nil, err
	}
	return ok(s, RemovedObjective{Name: in.Name})
}

func (s *Server) listObjectives(_ context.Context, in *objectivesQuery) (*body[List[Objective]], error) {
	var out []Objective
	for _, o := range s.machine.Objectives() {
		if (in.Service == "" || o.GetService() == in.Service) && (in.Group == "" || o.GetGroup() == in.Group) {
			out = append(out, s.objectiveView(o))
		}
	}
	return ok(s, page(out, in.PageInput, func(o Objective) string { return o.Name }))
}

func (s *Server) listBudgets(_ context.Context, in *objectivesQuery) (*body[List[BudgetOf]], error) {
	var out []BudgetOf
	for _, o := range s.machine.Objectives() {
		if (in.Service == "" || o.GetService() == in.Service) && (in.Group == "" || o.GetGroup() == in.Group) {
			st := s.promises.Standing(o)
			out = append(out, BudgetOf{Objective: o.GetName(), Service: o.GetService(), Group: o.GetGroup(), Promise: fsm.Promise(o), State: st.State, Budget: st.Budget, Advisory: o.GetAdvisory(), Policy: budgetPolicyView(s.machine.BudgetPolicy(o.GetService()))})
		}
	}
	return ok(s, page(out, in.PageInput, func(b BudgetOf) string { return b.Objective }))
}

func (s *Server) listAlerts(_ context.Context, in *PageInput) (*body[List[FiringAlert]], error) {
	var out []FiringAlert
	for _, v := range s.machine.Violations("") {
		for _, a := range v.GetAlerts() {
			if v.GetEndMs() == 0 && a.GetUntilMs() == 0 {
				out = append(out, FiringAlert{
					Objective: v.GetObjective(), Service: v.GetService(), Group: v.GetGroup(), Alert: a.GetName(), Severity: a.GetSeverity(),
					Since: at(a.GetSinceMs()), Burn: a.GetBurn(), Threshold: a.GetThreshold(), Violation: v.GetId(), Summary: v.GetSummary(),
				})
			}
		}
	}
	return ok(s, page(out, *in, func(a FiringAlert) string { return a.Violation + "/" + a.Alert }))
}

func (s *Server) listViolations(_ context.Context, in *violationsQuery) (*body[List[Violation]], error) {
	var out []Violation
	for _, v := range s.machine.Violations(in.Objective) {
		if !in.Open || v.GetEndMs() == 0 {
			out = append(out, violationView(v))
		}
	}
	return ok(s, page(out, in.PageInput, func(v Violation) string { return v.ID }))
}

func (s *Server) exportObjectives(_ context.Context, in *struct {
	Service string `query:"service"`
	Group   string `query:"group"`
},
) (*exportOutput, error) {
	var chosen []*commandv1.Objective
	for _, o := range s.machine.Objectives() {
		if (in.Service == "" || o.GetService() == in.Service) && (in.Group == "" || o.GetGroup() == in.Group) {
			chosen = append(chosen, o)
		}
	}
	raw, err := s.promises.Export(chosen)
	if err != nil {
		return nil, fromError(err)
	}
	return &exportOutput{Index: int64(s.machine.Index()), ContentType: "application/yaml", Body: raw}, nil
}

func (s *Server) importObjectives(ctx context.Context, in *importInput) (*body[Imported], error) {
	objectives, remarks, err := s.promises.Import(in.RawBody)
	if err != nil {
		return nil, newProblem(http.StatusUnprocessableEntity, err.Error())
	}
	out := Imported{Objectives: []string{}, Remarks: append([]string{}, remarks...), DryRun: in.DryRun}
	for _, o := range objectives {
		out.Objectives = append(out.Objectives, o.GetName())
	}
	if in.DryRun {
		return ok(s, out)
	}
	if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_OBJECTIVES, &commandv1.PutObjectives{Objectives: objectives}, in.IdempotencyKey); err != nil {
		return nil, err
	}
	return ok(s, out)
}

func (s *Server) putBudgetPolicy(ctx context.Context, in *budgetPolicyInput) (*tagged[BudgetPolicy], error) {
	p := &commandv1.BudgetPolicy{
		Service: in.Service, Mode: budgetModes[in.Body.Mode], CarefulBelow: in.Body.CarefulBelow, RestrictedBelow: in.Body.RestrictedBelow, SpendCap: in.Body.SpendCap,
	}
	if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_BUDGET_POLICY, &commandv1.PutBudgetPolicy{Policy: p, IfMatch: in.IfMatch}, in.IdempotencyKey); err != nil {
		return nil, err
	}
	kept := s.machine.BudgetPolicy(in.Service)
	return tag(s, kept.GetModifyIndex(), budgetPolicyView(kept)), nil
}

var budgetModes = map[string]commandv1.BudgetMode{"enforce": commandv1.BudgetMode_BUDGET_MODE_ENFORCE, "off": commandv1.BudgetMode_BUDGET_MODE_OFF}

// allowed refuses a rollout that the error budgets do not allow. A request that is repeated is not asked
// again: it has its answer.
func (s *Server) allowed(cmd *commandv1.CreateRollout) error {
	if s.promises == nil || s.machine.Rollout(cmd.GetId()) != nil {
		return nil
	}
	lowRisk, refusal := s.machine.LowRisk(cmd)
	if refusal != nil {
		return nil // the command itself tells better
	}
	c := fsm.Change{LowRisk: lowRisk, Fix: cmd.GetFix(), ApprovedBy: cmd.GetApprovedBy(), RollsForward: cmd.GetRollsForwardFrom() != ""}
	if refusal := fsm.BudgetRefusal(s.promises.Gate(cmd.GetGroup()), c); refusal != nil {
		return fromRefusal(refusal)
	}
	return nil
}

// msOf a number of seconds.
func msOf(seconds float64) int64 { return int64(seconds * float64(time.Second/time.Millisecond)) }
