package probation

import (
	"strings"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Report is the state as the control plane sees it. changes counts what was reported since the
// machine's start; with the journaled count of starts it makes a sequence that rises across
// restarts without a disk write for each report.
func Report(s State, changes uint32) *agentv1.StateReport {
	running := s.Running()
	serving, why := s.Serving()
	return &agentv1.StateReport{
		InstanceId:       s.Instance,
		Sequence:         s.Starts<<32 | uint64(changes),
		Phase:            s.Phase,
		Fence:            &agentv1.Fence{Incarnation: s.Fence.Incarnation, Index: s.Fence.Index},
		RunningEpoch:     running.Epoch,
		RunningHash:      running.Hash,
		LkgEpoch:         s.LKG.Epoch,
		LkgHash:          s.LKG.Hash,
		FailedEpoch:      s.Failed.Epoch,
		FailedReason:     text(s.Failed.Reason),
		FailedLog:        text(s.Failed.Log),
		Serving:          serving,
		Health:           text(why),
		Drained:          s.Drained,
		CutRequests:      uint32(max(0, s.Cut)),
		UnrequestedExits: uint32(max(0, s.Watch.Engine.Exits)),
	}
}

// text makes foreign words safe for the wire.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
