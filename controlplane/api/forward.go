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

// leaderPaths are reads that need the leader's telemetry.
var leaderPaths = []string{"/metrics/", "/optimize/bottlenecks"}

// forwardToLeader sends writes and telemetry reads of a follower to the leader, unchanged. It
// does not retry: the client's Idempotency-Key makes its own retry safe.
func (s *Server) forwardToLeader(c *gin.Context) {
	if s.cluster.IsLeader() || !needsLeader(c.Request) {
		if c.Query("consistency") == "linearizable" {
			if err := s.cluster.ReadBarrier(c.Request.Context()); err != nil {
				writeProblem(c.Writer, http.StatusServiceUnavailable, err.Error())
				c.Abort()
				return
			}
		}
		c.Next()
		return
	}
	defer c.Abort()
	target, err := url.Parse(s.cluster.LeaderURL())
	if err != nil || target.Host == "" || c.GetHeader(forwardedHeader) != "" {
		c.Header("Retry-After", "1")
		writeProblem(c.Writer, http.StatusServiceUnavailable, "the cluster has no leader right now; try again in a second")
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

func needsLeader(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return true
	}
	for _, p := range leaderPaths {
		if strings.HasPrefix(r.URL.Path, p) {
			return true
		}
	}
	return false
}
