package slo

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Log takes commands into the replicated log. A refusal is in the result.
type Log interface {
	Propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error)
}

// Windows are the recent one-second windows.
type Windows interface {
	// Windows of the instances that lie wholly within [from, to), by instance and by time. They are
	// shared and read-only.
	Windows(instances []string, from, to time.Time) []*fleet.Window
}

// History remembers what windows no longer tell.
type History interface {
	// Steps of the named metrics, one aggregate each; one without samples is empty.
	Steps(instances, metrics []string, from, to time.Time, step time.Duration) ([]*fleet.Aggregate, error)
}

// Analyst names what limits a group now, primary cause first.
type Analyst interface {
	Findings(ctx context.Context, group string) ([]*commandv1.Finding, error)
}

// Querier evaluates PromQL at one time. It returns the values of all series; none: there is no data.
type Querier interface {
	Values(ctx context.Context, query string, at time.Time) ([]float64, error)
}

// Ports are what a Service works with. Analyst nil guesses no causes; Querier nil leaves objectives with
// queries unknown.
type Ports struct {
	Log     Log
	Windows Windows
	History History
	Analyst Analyst
	Querier Querier
}
