package main

import (
	"slices"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/version"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// statusReport is the answer of /status.
type statusReport struct {
	AgentID      string         `json:"agent_id"`
	Version      string         `json:"version"`
	ControlPlane linkStatus     `json:"control_plane"`
	Engines      []engineStatus `json:"engines"`
	GPUs         []gpuStatus    `json:"gpus"`
}

// linkStatus is the stream to the control plane.
type linkStatus struct {
	Connected      bool      `json:"connected"`
	Address        string    `json:"address,omitempty"`
	NodeID         string    `json:"node_id,omitempty"`
	Since          time.Time `json:"since,omitzero"`
	Problem        string    `json:"problem,omitempty"`
	Reconnects     int       `json:"reconnects"`
	UnsentWindows  int       `json:"unsent_windows"`
	DroppedWindows uint64    `json:"dropped_windows"`
}

// engineStatus is one engine.
type engineStatus struct {
	Name     string `json:"name"`
	Instance string `json:"instance"`
	Group    string `json:"group"`
	URL      string `json:"url"`
	Engine   string `json:"engine,omitempty"`
	Version  string `json:"version,omitempty"`
	Model    string `json:"model,omitempty"`
	// Hardware class; Accelerators are what NVML says of it.
	Hardware     string `json:"hardware,omitempty"`
	Accelerators string `json:"accelerators,omitempty"`
	Serving      bool   `json:"serving"`
	// Reason in words while not serving.
	Reason string `json:"reason,omitempty"`
	// Start are the steps that the engine's log shows of its start, while not serving.
	Start        []string `json:"start,omitempty"`
	Phase        string   `json:"phase"`
	RunningEpoch uint64   `json:"running_epoch"`
	LKGEpoch     uint64   `json:"lkg_epoch"`
	// FailedEpoch was taken back last; the reason says why.
	FailedEpoch    uint64         `json:"failed_epoch,omitempty"`
	FailedReason   string         `json:"failed_reason,omitempty"`
	Drained        bool           `json:"drained,omitempty"`
	CutRequests    uint32         `json:"cut_requests,omitempty"`
	Launcher       string         `json:"launcher"`
	Sources        []sourceStatus `json:"sources"`
	MissingSignals []string       `json:"missing_signals,omitempty"`
	Warnings       []string       `json:"warnings,omitempty"`
}

// sourceStatus tells how fresh one source is.
type sourceStatus struct {
	Name    string `json:"name"`
	AgeMs   int64  `json:"age_ms"`
	Stale   bool   `json:"stale"`
	Problem string `json:"problem,omitempty"`
	// Warning says what the source does not tell and what cannot be known because of it.
	Warning string `json:"warning,omitempty"`
	// AnsweredAt is when it last answered, by this machine's clock.
	AnsweredAt time.Time `json:"answered_at,omitzero"`
	// LagMs is how long before that the engine last moved those of its numbers that it moves only now
	// and then.
	LagMs int64 `json:"lag_ms,omitempty"`
}

func statusOf(s *agentv1.Source) sourceStatus {
	out := sourceStatus{
		Name: s.GetName(), AgeMs: s.GetAgeMs(), Stale: s.GetStale(), Problem: s.GetError(), Warning: s.GetWarning(), LagMs: s.GetLagMs(),
	}
	if at := s.GetAnsweredUnixMs(); at > 0 {
		out.AnsweredAt = time.UnixMilli(at)
	}
	return out
}

func (a *agent) report() statusReport {
	s := a.reporter.Status()
	out := statusReport{AgentID: a.id, Version: version.String(), ControlPlane: linkStatus{
		Connected: s.Connected, Address: s.Address, NodeID: s.NodeID, Since: s.Since, Problem: s.Problem,
		Reconnects: s.Reconnects, UnsentWindows: s.Unsent, DroppedWindows: s.Dropped,
	}, GPUs: a.gpus.status(time.Now())}
	for _, in := range a.instances {
		out.Engines = append(out.Engines, a.engineStatus(in))
	}
	return out
}

func (a *agent) engineStatus(in *instance) engineStatus {
	d, state := in.adapter.described(), in.machine.State()
	serving, why := in.machine.Serving()
	hardware, _ := in.hardware()
	e := engineStatus{
		Name: in.cfg.Name, Instance: in.id, Group: in.cfg.Group, URL: in.cfg.URL,
		Engine: d.GetEngine(), Version: d.GetVersion(), Model: d.GetModel(),
		Hardware: hardware.Name, Accelerators: hardware.Seen,
		Serving: serving, Reason: why, Phase: phaseName(state.GetPhase()),
		RunningEpoch: state.GetRunningEpoch(), LKGEpoch: state.GetLkgEpoch(),
		FailedEpoch: state.GetFailedEpoch(), FailedReason: state.GetFailedReason(),
		Drained: state.GetDrained(), CutRequests: state.GetCutRequests(),
		Launcher:       orElse(in.cfg.Launcher, "none: observed only"),
		MissingSignals: in.source.Status().Missing, Warnings: slices.Concat(d.GetWarnings(), hardware.Warnings),
	}
	if !serving {
		e.Start = in.startSteps()
	}
	if w := a.collector.Last(in.id); w != nil {
		for _, s := range w.Sources {
			e.Sources = append(e.Sources, statusOf(s))
		}
	}
	return e
}

// phaseName is a phase as people write it: probation.
func phaseName(p agentv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}
