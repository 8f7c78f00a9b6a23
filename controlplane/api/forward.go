package api

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"
)

// forwardedHeader marks a request that came from another node, so that two nodes which disagree
// on the leader never play ball with it.
const forwardedHeader = "X-Perf-Forwarded-By"

// localPaths are answered by the node that is asked, whoever leads: its own health, its copy of the
// history, the documents.
var localPaths = []string{"/health", "/events", "/version", "/capabilities", "/openapi", "/docs", "/schemas", "/history/snapshot"}

// Levels of a read, by the query parameter "consistency". Without one the leader answers.
const (
	levelStale        = "stale"        // this node's copy, which may be behind
	levelLinearizable = "linearizable" // this node's copy, once it has all that was acknowledged before
)

// route answers here what this node may answer and sends everything else to the leader, unchanged.
// It does not retry: the client's Idempotency-Key makes its own retry safe.
func (s *Server) route(c *gin.Context) {
	level := takeLevel(c.Request)
	switch {
	case level != "" && level != levelStale && level != levelLinearizable:
		writeProblem(c.Writer, http.StatusUnprocessableEntity, "consistency "+level+" is not known: use stale or linearizable, or leave it out")
		c.Abort()
	case isRead(c.Request) && (level == levelStale || isLocal(c.Request.URL.Path)):
		c.Next()
	case level == levelLinearizable && isRead(c.Request), s.cluster.IsLeader():
		// A leader that has just won may not have applied yet what its predecessor acknowledged.
		if err := s.cluster.ReadBarrier(c.Request.Context()); err != nil {
			c.Header("Retry-After", "1")
			writeProblem(c.Writer, http.StatusServiceUnavailable, err.Error())
			c.Abort()
			return
		}
		c.Next()
	default:
		s.forward(c)
	}
}

// forward sends a request to the leader.
func (s *Server) forward(c *gin.Context) {
	defer c.Abort()
	target, err := url.Parse(s.cluster.LeaderURL())
	if err != nil || target.Host == "" || c.GetHeader(forwardedHeader) != "" {
		c.Header("Retry-After", "1")
		writeProblem(c.Writer, http.StatusServiceUnavailable, "the cluster has no leader right now; try again in a second, or read with consistency=stale")
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set(forwardedHeader, s.cfg.NodeID)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			w.Header().Set("Retry-After", "1")
			writeProblem(w, http.StatusServiceUnavailable, "the leader did not answer: "+err.Error())
		},
	}
	proxy.ServeHTTP(c.Writer, c.Request)
}

// takeLevel removes the consistency parameter, which no operation knows, and returns it.
func takeLevel(r *http.Request) string {
	q := r.URL.Query()
	level := q.Get("consistency")
	if q.Has("consistency") {
		q.Del("consistency")
		r.URL.RawQuery = q.Encode()
	}
	return level
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func isLocal(path string) bool {
	if path == "/metrics" {
		return true
	}
	for _, p := range localPaths {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}
