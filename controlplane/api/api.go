// Package api is the control plane's REST interface: gin carries it, huma validates requests,
// writes problems (RFC 9457) and the OpenAPI document from one set of types.
//
// It decides nothing. The leader answers; a follower forwards requests as they came, except reads
// that ask for its own copy.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"
	swgui "github.com/swaggest/swgui/v5emb"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Log takes commands into the replicated log. Propose returns fsm's refusal inside the result.
type Log interface {
	Propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error)
}

// Cluster tells who leads and how this node is.
type Cluster interface {
	IsLeader() bool
	// LeaderURL is the leader's REST address, empty when there is none.
	LeaderURL() string
	// ReadBarrier returns once this node has applied all writes acknowledged before the call.
	ReadBarrier(ctx context.Context) error
	Health() ClusterHealth
}

// Telemetry is the leader's view of recent windows.
type Telemetry interface {
	Aggregate(instances []string, from, to time.Time) (*fleet.Aggregate, error)
	// Latest window of an instance; nil when there is none. Callers must not change it.
	Latest(instance string) *fleet.Window
}

// History is the leader's memory of days.
type History interface {
	Aggregate(instances []string, from, to time.Time) (*fleet.Aggregate, error)
	// Find the series that stands for a metric in windows.
	Find(metric string) (series.Info, bool)
	// Steps of the named metrics, one aggregate each.
	Steps(instances, metrics []string, from, to time.Time, step time.Duration) ([]*fleet.Aggregate, error)
}

// Advisor answers questions that need analysis of live telemetry. It runs on the leader.
type Advisor interface {
	// Findings of a group now, primary cause first.
	Findings(ctx context.Context, group string) ([]*commandv1.Finding, error)
	// Recommend proposes a configuration whose changes stay within the knob families; none: all.
	Recommend(ctx context.Context, group string, families []string) (*commandv1.Recommendation, error)
}

// Collector asks an instance for its current window at once.
type Collector interface {
	Collect(ctx context.Context, instance string) error
}

// Config of the interface.
type Config struct {
	Version string
	NodeID  string
	Started time.Time
}

// Server holds what the routes need.
type Server struct {
	cfg       Config
	machine   *fsm.Machine
	log       Log
	cluster   Cluster
	telemetry Telemetry
	history   History
	advisor   Advisor
	oracle    Oracle
	promises  Promises // nil: nothing was promised, and no error budget gates
	collector Collector
	tests     Tests
	logger    *slog.Logger
	router    *gin.Engine
	api       huma.API
}

// Deps are the parts that main passes in.
type Deps struct {
	Machine   *fsm.Machine
	Log       Log
	Cluster   Cluster
	Telemetry Telemetry
	History   History
	Advisor   Advisor
	Oracle    Oracle
	Promises  Promises
	Collector Collector
	Tests     Tests
	// Metrics answers GET /metrics for this node, PromQL what is under /prometheus/api/v1/.
	Metrics, PromQL http.Handler
	// Snapshot answers GET /history/snapshot: this node's history, for another node.
	Snapshot http.Handler
	Logger   *slog.Logger
}

// New builds the routes. The result is an http.Handler.
func New(cfg Config, d Deps) *Server {
	gin.SetMode(gin.ReleaseMode)
	huma.NewError = newProblem
	s := &Server{
		cfg: cfg, machine: d.Machine, log: d.Log, cluster: d.Cluster, telemetry: d.Telemetry, history: d.History,
		advisor: d.Advisor, oracle: d.Oracle, promises: d.Promises, collector: d.Collector, tests: d.Tests, logger: d.Logger.With("component", "api"),
		router: gin.New(),
	}
	_ = s.router.SetTrustedProxies(nil) // nil never fails
	s.router.HandleMethodNotAllowed = true
	s.router.UseRawPath = true // an engine's id holds a slash and comes escaped
	s.router.NoRoute(func(c *gin.Context) {
		writeProblem(c.Writer, http.StatusNotFound, "no such route: "+c.Request.URL.Path+"; GET /openapi.json lists them")
	})
	s.router.NoMethod(func(c *gin.Context) {
		writeProblem(c.Writer, http.StatusMethodNotAllowed, c.Request.Method+" is not supported on "+c.Request.URL.Path)
	})
	s.router.Use(s.recoverPanics, limitBody, s.route)

	config := huma.DefaultConfig("Performance Agent", cfg.Version)
	config.Info.Description = "Autopilot for LLM serving fleets. Every path is also served under /api/v1. The leader answers; add consistency=stale to read the copy of the node that is asked, or consistency=linearizable for that copy once it has all that was acknowledged before. GET /metrics is for a Prometheus that scrapes this node; /prometheus/api/v1/ answers PromQL for a Grafana data source."
	config.DocsPath = ""
	config.CreateHooks = nil // no $schema links in answers
	config.RejectUnknownQueryParameters = true
	s.api = humagin.New(s.router, config)
	s.router.GET("/docs", gin.WrapH(swgui.New("Performance Agent", "/openapi.json", "/docs")))
	s.router.GET("/docs/*any", gin.WrapH(swgui.New("Performance Agent", "/openapi.json", "/docs")))

	s.router.GET("/metrics", gin.WrapH(d.Metrics))
	s.router.GET("/history/snapshot", gin.WrapH(d.Snapshot))
	s.router.Any("/prometheus/api/v1/*path", gin.WrapH(d.PromQL))
	s.healthRoutes()
	s.fleetRoutes()
	s.metricsRoutes()
	s.optimizeRoutes()
	s.whatIfRoutes()
	s.testRoutes()
	s.rolloutRoutes()
	s.sloRoutes()
	s.workflowRoutes()
	s.eventRoutes()
	return s
}

// ServeHTTP accepts each path also under /api/v1.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, "/api/v1/"); ok {
		r = r.Clone(r.Context())
		r.URL.Path = "/" + rest
		r.URL.RawPath = strings.TrimPrefix(r.URL.RawPath, "/api/v1")
	}
	s.router.ServeHTTP(w, r)
}

// OpenAPI returns the document that describes the routes.
func (s *Server) OpenAPI() *huma.OpenAPI { return s.api.OpenAPI() }

// op describes one operation; every operation may answer with a problem.
func op(method, path, id, summary, tag string) huma.Operation {
	o := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{tag},
		Errors: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusUnprocessableEntity, http.StatusInternalServerError, http.StatusServiceUnavailable},
	}
	if method != http.MethodGet {
		o.Errors = append(o.Errors, http.StatusConflict, http.StatusPreconditionFailed)
	}
	return o
}

// WriteHeaders are the optional headers of every change.
type WriteHeaders struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"128" doc:"Repeating a request with the same key does the work once."`
}

// body wraps an answer.
type body[T any] struct {
	Index int64 `header:"X-Applied-Index" doc:"Log index that this node had applied."`
	Body  T
}

// ok wraps an answer with the applied index.
func ok[T any](s *Server, v T) (*body[T], error) {
	return &body[T]{Index: int64(s.machine.Index()), Body: v}, nil
}

// propose writes a command and turns refusals into problems.
func (s *Server) propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, key string) (fsm.Result, error) {
	res, err := s.log.Propose(ctx, typ, payload, key, "operator")
	if err != nil {
		return res, fromError(err)
	}
	if res.Refusal != nil {
		return res, fromRefusal(res.Refusal)
	}
	return res, nil
}
