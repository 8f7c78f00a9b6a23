package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// ClusterHealth is one node's view of the control plane.
type ClusterHealth struct {
	NodeID        string          `json:"node_id"`
	State         string          `json:"state" doc:"leader, follower, candidate or shutdown"`
	Term          uint64          `json:"term"`
	AppliedIndex  uint64          `json:"applied_index"`
	LeaderID      string          `json:"leader_id,omitempty"`
	LeaderURL     string          `json:"leader_url,omitempty"`
	LastContactMS float64         `json:"last_contact_ms" doc:"since this follower last heard the leader; -1 when it never did"`
	Members       []ClusterMember `json:"members"`
	Incarnation   uint64          `json:"incarnation"`
	ClusterID     string          `json:"cluster_id,omitempty"`
}

// ClusterMember is one server of the Raft configuration.
type ClusterMember struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Voter   bool   `json:"voter"`
}

// Health in short.
type Health struct {
	Status        string  `json:"status" enum:"healthy,degraded" doc:"degraded: no leader is known"`
	AgentID       string  `json:"agent_id"`
	Version       string  `json:"version"`
	UptimeSeconds float64 `json:"uptime_seconds"`
}

// DetailedHealth lists the parts.
type DetailedHealth struct {
	Status     string                     `json:"status"`
	Components map[string]ComponentHealth `json:"components"`
}

// ComponentHealth of one part, in words.
type ComponentHealth struct {
	Status string `json:"status"`
	Detail string `json:"detail"`
}

// Version of the program.
type Version struct {
	Version string `json:"version"`
	API     string `json:"api"`
}

// Capabilities of this deployment.
type Capabilities struct {
	Capabilities       []string `json:"capabilities"`
	SupportedPlatforms []string `json:"supported_platforms"`
	OptimizationTypes  []string `json:"optimization_types"`
	WorkflowFeatures   []string `json:"workflow_features"`
}

func (s *Server) healthRoutes() {
	huma.Register(s.api, op(http.MethodGet, "/health", "health", "Is this node well", "health"),
		func(context.Context, *struct{}) (*body[Health], error) { return ok(s, s.health()) })
	huma.Register(s.api, op(http.MethodGet, "/health/detailed", "health-detailed", "Health by part", "health"),
		func(context.Context, *struct{}) (*body[DetailedHealth], error) { return ok(s, s.detailed()) })
	huma.Register(s.api, op(http.MethodGet, "/health/live", "health-live", "Does the process answer", "health"),
		func(context.Context, *struct{}) (*body[Health], error) { return ok(s, s.health()) })
	huma.Register(s.api, op(http.MethodGet, "/health/ready", "health-ready", "Can this node serve requests: it knows a leader", "health"),
		func(context.Context, *struct{}) (*body[Health], error) {
			if s.cluster.Health().LeaderID == "" {
				return nil, newProblem(http.StatusServiceUnavailable, "no leader is known")
			}
			return ok(s, s.health())
		})
	huma.Register(s.api, op(http.MethodGet, "/health/cluster", "health-cluster", "This node's view of the cluster", "health"),
		func(context.Context, *struct{}) (*body[ClusterHealth], error) { return ok(s, s.cluster.Health()) })
	huma.Register(s.api, op(http.MethodGet, "/version", "version", "Version of the program", "admin"),
		func(context.Context, *struct{}) (*body[Version], error) {
			return ok(s, Version{Version: s.cfg.Version, API: "v1"})
		})
	huma.Register(s.api, op(http.MethodGet, "/capabilities", "capabilities", "What this deployment can do", "admin"),
		func(context.Context, *struct{}) (*body[Capabilities], error) {
			return ok(s, Capabilities{
				Capabilities:       []string{"performance_monitoring", "bottleneck_detection", "kv_cache_optimization", "batch_size_tuning", "gradual_rollout"},
				SupportedPlatforms: []string{"vllm", "sglang", "tgi"},
				OptimizationTypes:  []string{"kv_cache", "quantization", "batching", "parallelism"},
				WorkflowFeatures:   []string{"advise", "approve", "auto", "canary", "automatic_rollback"},
			})
		})
}

func (s *Server) health() Health {
	h := Health{Status: "healthy", AgentID: s.cfg.NodeID, Version: s.cfg.Version, UptimeSeconds: time.Since(s.cfg.Started).Seconds()}
	if s.cluster.Health().LeaderID == "" {
		h.Status = "degraded"
	}
	return h
}

func (s *Server) detailed() DetailedHealth {
	d := DetailedHealth{Status: "healthy", Components: map[string]ComponentHealth{}}
	set := func(name string, well bool, yes, no string) {
		c := ComponentHealth{Status: "healthy", Detail: yes}
		if !well {
			c.Status, c.Detail, d.Status = "degraded", no, "degraded"
		}
		d.Components[name] = c
	}
	h := s.cluster.Health()
	set("raft", h.LeaderID != "", "leader is "+h.LeaderID, "no leader is known: fewer than half of the members are up, or an election runs")
	var away int
	instances := s.machine.Instances("")
	for _, in := range instances {
		if !in.GetReachable() {
			away++
		}
	}
	set("agents", away == 0, plural(len(instances), "engine")+" reachable", plural(away, "engine")+" of "+plural(len(instances), "engine")+" unreachable")
	return d
}
