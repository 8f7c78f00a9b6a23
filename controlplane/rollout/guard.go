package rollout

import (
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// guardSpan is how far back the hard guards look.
const guardSpan = 10 * time.Second

// hangSpan is how long replicas may have requests running and bring nothing forth.
const hangSpan = 30 * time.Second

// Requests that must be seen before a share of failures counts.
const (
	guardRequests = 10
	guardShare    = 0.5
)

// faultReported finds a changed replica whose engine ended without being asked to while it is said
// to serve. Replicas that took the epoch back themselves are counted in the log's own machine.
func faultReported(r *commandv1.Rollout, o Observation) *Guard {
	for _, i := range o.Members {
		if fsm.StageOf(r, i, o.Incarnation) == fsm.Serving && i.GetState().GetUnrequestedExits() > 0 && len(fsm.OfferedTo(r)) > 0 {
			return &Guard{Reason: fmt.Sprintf("the engine of replica %s ended by itself on the new configuration", i.GetId()), Since: o.Now}
		}
	}
	return nil
}

// failing reports a share of failed requests that no comparison can excuse.
func failing(who string, recent *fleet.Aggregate) *Guard {
	failed := recent.Counters[fleet.RequestsFailed]
	total := failed + recent.Counters[fleet.RequestsFinished]
	if total < guardRequests || failed/total <= guardShare {
		return nil
	}
	return &Guard{Reason: fmt.Sprintf("%.0f of %.0f requests on %s failed", failed, total, who), Since: recent.From}
}

// hanging reports changed replicas that hold requests and bring nothing forth.
func hanging(span *fleet.Aggregate) *Guard {
	running := span.Gauges[fleet.RequestsRunning]
	if span.Seconds() < (hangSpan-5*time.Second).Seconds() || running.N == 0 || running.Min < 1 ||
		span.Counters[fleet.GenerationTokens] > 0 || span.Counters[fleet.RequestsFinished] > 0 || span.StaleSecs > 0 {
		return nil
	}
	return &Guard{Reason: fmt.Sprintf("the changed replicas hold requests and have brought nothing forth for %.0f s", span.Seconds()), Since: span.From}
}
