package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

type createWorkflowInput struct {
	WriteHeaders
	Body struct {
		Group string `json:"group"`
		Mode  string `json:"mode,omitempty" enum:"advise,approve,auto" doc:"default: the group's mode"`
	}
}

func (s *Server) workflowRoutes() {
	huma.Register(s.api, op(http.MethodPost, "/workflows", "create-workflow", "Start the pipeline for a group", "workflow"), s.createWorkflow)
	huma.Register(s.api, op(http.MethodGet, "/workflows", "list-workflows", "Workflows, newest first", "workflow"),
		func(_ context.Context, in *rolloutQuery) (*body[List[Workflow]], error) {
			var out []Workflow
			for _, w := range s.machine.Workflows(in.Group) {
				out = append(out, workflowView(w))
			}
			return ok(s, page(out, in.PageInput, func(w Workflow) string { return w.ID }))
		})
	huma.Register(s.api, op(http.MethodGet, "/workflows/{id}", "get-workflow", "One workflow", "workflow"),
		func(_ context.Context, in *idInput) (*body[Workflow], error) {
			w := s.machine.Workflow(in.ID)
			if w == nil {
				return nil, notFound("workflow", in.ID)
			}
			return ok(s, workflowView(w))
		})
	awaiting := commandv1.WorkflowState_WORKFLOW_STATE_AWAITING_APPROVAL
	s.workflowDecision("approve", "Approve what a workflow proposes", awaiting, commandv1.WorkflowState_WORKFLOW_STATE_DECIDED)
	s.workflowDecision("reject", "Reject what a workflow proposes", awaiting, commandv1.WorkflowState_WORKFLOW_STATE_CANCELLED)
	s.workflowDecision("cancel", "Cancel a workflow that is not rolling out", commandv1.WorkflowState_WORKFLOW_STATE_UNSPECIFIED, commandv1.WorkflowState_WORKFLOW_STATE_CANCELLED)
}

func (s *Server) createWorkflow(ctx context.Context, in *createWorkflowInput) (*body[Workflow], error) {
	g := s.machine.Group(in.Body.Group)
	if g == nil {
		return nil, notFound("group", in.Body.Group)
	}
	mode := modes[in.Body.Mode]
	if in.Body.Mode == "" {
		mode = g.GetPolicy().GetMode()
	}
	id := "w-" + uuid.NewString()[:13]
	if in.IdempotencyKey != "" {
		id = "w-" + uuid.NewSHA1(uuid.NameSpaceOID, []byte(in.IdempotencyKey)).String()[:13]
	}
	cmd := &commandv1.CreateWorkflow{Id: id, Group: in.Body.Group, Mode: mode}
	res, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_CREATE_WORKFLOW, cmd, in.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	if res.ObjectID != "" {
		id = res.ObjectID
	}
	return s.workflow(id)
}

func (s *Server) workflow(id string) (*body[Workflow], error) {
	w := s.machine.Workflow(id)
	if w == nil {
		return nil, notFound("workflow", id)
	}
	return ok(s, workflowView(w))
}

// workflowDecision serves POST /workflows/{id}/NAME: a person's step from expect (any state when
// unspecified) to next.
func (s *Server) workflowDecision(name, summary string, expect, next commandv1.WorkflowState) {
	huma.Register(s.api, op(http.MethodPost, "/workflows/{id}/"+name, name+"-workflow", summary, "workflow"),
		func(ctx context.Context, in *reasonInput) (*body[Workflow], error) {
			w := s.machine.Workflow(in.ID)
			if w == nil {
				return nil, notFound("workflow", in.ID)
			}
			from := expect
			if from == commandv1.WorkflowState_WORKFLOW_STATE_UNSPECIFIED {
				from = w.GetState()
			}
			if from == commandv1.WorkflowState_WORKFLOW_STATE_ROLLING_OUT {
				return nil, newProblem(http.StatusConflict, "the workflow is rolling out; take the rollout back with POST /rollout/rollback instead")
			}
			cmd := &commandv1.StepWorkflow{Id: in.ID, Expect: from, Next: next, Note: name + " by an operator: " + in.Body.Reason}
			if next == commandv1.WorkflowState_WORKFLOW_STATE_CANCELLED {
				cmd.EndReason = name + " by an operator: " + in.Body.Reason
			}
			if _, err := s.propose(ctx, commandv1.CommandType_COMMAND_TYPE_STEP_WORKFLOW, cmd, in.IdempotencyKey); err != nil {
				return nil, err
			}
			return s.workflow(in.ID)
		})
}
