package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/load"
)

// ErrInvalid is what a dependency returns, wrapped, for what cannot be done as it was asked for. It
// becomes 422.
var ErrInvalid = errors.New("cannot be done as asked")

// Tests starts load tests and comparisons, and tells about them. It runs on the leader; errors match
// ErrNotFound or ErrInvalid, or are *fsm.Refusal.
type Tests interface {
	Start(ctx context.Context, ask load.Ask, validate bool, key, actor string) (id string, err error)
	// Document of a test, with the reports of its runs where asked for.
	Document(id string, reports bool) (*load.Document, error)
	// Documents of a group, of all when it is empty, newest first, without what is kept as evidence.
	Documents(group string) []load.Document
	// Export a test: csv or html.
	Export(id, format string) (content []byte, contentType string, err error)
	// Remove cancels a test that runs and deletes one that has ended.
	Remove(ctx context.Context, id, key, actor string) (cancelled bool, err error)
}

type askInput struct {
	WriteHeaders
	Body load.Ask
}

type testsQuery struct {
	PageInput
	Group string `query:"group"`
}

type testQuery struct {
	ID      string `path:"id"`
	Reports bool   `query:"reports" doc:"with every request of every run"`
}

type exportQuery struct {
	ID     string `path:"id"`
	Format string `query:"format" enum:"csv,html" default:"html"`
}

type exported struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// Removed says what came of a DELETE.
type Removed struct {
	ID        string `json:"id"`
	Cancelled bool   `json:"cancelled" doc:"it was running and ends now; false: it is deleted"`
}

func (s *Server) testRoutes() {
	huma.Register(s.api, op(http.MethodPost, "/test/run", "run-test", "Load-test a drained engine, one for staging, or a simulated twin", "test"), s.startTest(false))
	huma.Register(s.api, op(http.MethodPost, "/test/validate", "validate-test", "Compare candidate settings with what an engine runs: noise first, fresh replicates, intervals", "test"), s.startTest(true))
	huma.Register(s.api, op(http.MethodGet, "/test/results", "list-tests", "Tests, newest first", "test"),
		func(_ context.Context, in *testsQuery) (*body[List[load.Document]], error) {
			return ok(s, page(s.tests.Documents(in.Group), in.PageInput, func(d load.Document) string { return d.ID }))
		})
	huma.Register(s.api, op(http.MethodGet, "/test/results/{id}", "get-test", "One test with its figures", "test"),
		func(_ context.Context, in *testQuery) (*body[load.Document], error) {
			d, err := s.tests.Document(in.ID, in.Reports)
			if err != nil {
				return nil, fromTest(err)
			}
			return ok(s, *d)
		})
	huma.Register(s.api, op(http.MethodGet, "/test/results/{id}/export", "export-test", "A test as CSV, one row a request, or as one HTML page with plots", "test"),
		func(_ context.Context, in *exportQuery) (*exported, error) {
			content, kind, err := s.tests.Export(in.ID, in.Format)
			if err != nil {
				return nil, fromTest(err)
			}
			return &exported{ContentType: kind, Body: content}, nil
		})
	huma.Register(s.api, op(http.MethodDelete, "/test/{id}", "remove-test", "Cancel a test that runs, or delete one that has ended", "test"),
		func(ctx context.Context, in *struct {
			WriteHeaders
			ID string `path:"id"`
		},
		) (*body[Removed], error) {
			cancelled, err := s.tests.Remove(ctx, in.ID, in.IdempotencyKey, "operator")
			if err != nil {
				return nil, fromTest(err)
			}
			return ok(s, Removed{ID: in.ID, Cancelled: cancelled})
		})
}

func (s *Server) startTest(validate bool) func(context.Context, *askInput) (*body[load.Document], error) {
	return func(ctx context.Context, in *askInput) (*body[load.Document], error) {
		id, err := s.tests.Start(ctx, in.Body, validate, in.IdempotencyKey, "operator")
		if err != nil {
			return nil, fromTest(err)
		}
		d, err := s.tests.Document(id, false)
		if err != nil {
			return nil, fromTest(err)
		}
		return ok(s, *d)
	}
}

func fromTest(err error) error {
	var refusal *fsm.Refusal
	switch {
	case errors.As(err, &refusal):
		return fromRefusal(refusal)
	case errors.Is(err, ErrInvalid):
		return newProblem(http.StatusUnprocessableEntity, err.Error())
	}
	return fromError(err)
}
