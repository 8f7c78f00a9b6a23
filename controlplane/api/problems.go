package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
)

// ErrUnavailable is what a dependency returns, wrapped, when it cannot answer now: no leader, no
// telemetry. It becomes 503.
var ErrUnavailable = errors.New("not available now")

// ErrNotFound is what a dependency returns, wrapped, for an unknown object. It becomes 404.
var ErrNotFound = errors.New("not found")

// ErrQuestion is what a dependency returns, wrapped, for a question that cannot be answered as it is put.
// It becomes 422.
var ErrQuestion = errors.New("question cannot be answered")

const problemType = "application/problem+json"

// newProblem replaces huma's constructor: the type is a stable URI, and internals of a 5xx stay
// in the log.
func newProblem(status int, msg string, errs ...error) huma.StatusError {
	p := &huma.ErrorModel{Type: typeURI(status), Title: http.StatusText(status), Status: status, Detail: msg}
	for _, err := range errs {
		if err != nil && status < http.StatusInternalServerError {
			p.Add(err)
		}
	}
	return p
}

func typeURI(status int) string {
	return "urn:performance-agent:problem:" + strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "-")
}

func writeProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(newProblem(status, detail)) // the client has gone: nothing to do
}

// refusalStatus of the state machine's codes; anything else is a conflict.
var refusalStatus = map[fsm.Code]int{
	fsm.NotFound:           http.StatusNotFound,
	fsm.Invalid:            http.StatusUnprocessableEntity,
	fsm.PreconditionFailed: http.StatusPreconditionFailed,
}

func fromRefusal(r *fsm.Refusal) error {
	status, known := refusalStatus[r.Code]
	if !known {
		status = http.StatusConflict
	}
	return newProblem(status, r.Message)
}

func fromError(err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return newProblem(http.StatusNotFound, err.Error())
	case errors.Is(err, ErrQuestion):
		return newProblem(http.StatusUnprocessableEntity, err.Error())
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return newProblem(http.StatusServiceUnavailable, err.Error())
	}
	return newProblem(http.StatusInternalServerError, err.Error())
}

func notFound(kind, id string) error {
	return newProblem(http.StatusNotFound, fmt.Sprintf("there is no %s %q", kind, id))
}

// recoverPanics answers a panic with a problem and logs it with its stack.
func (s *Server) recoverPanics(c *gin.Context) {
	defer func() {
		if r := recover(); r != nil {
			s.logger.Error("request panicked", "path", c.Request.URL.Path, "panic", r, "stack", string(debug.Stack()))
			if !c.Writer.Written() {
				writeProblem(c.Writer, http.StatusInternalServerError, "internal error; the control plane's log has the details")
			}
			c.Abort()
		}
	}()
	c.Next()
}

// maxBody bounds a request's body.
const maxBody = 1 << 20

func limitBody(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxBody)
	c.Next()
}
