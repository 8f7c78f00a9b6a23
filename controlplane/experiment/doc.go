// Package experiment tests configurations: load tests of engines that serve no users, and of their
// simulated twins; sweeps; comparisons of a candidate with the baseline that a statistician would
// sign; and the quality of answers where a change may alter them.
//
// What is worth knowing is decided by pure functions (Next, Compare); a small loop on the leader
// carries it out. Load is sent by the agent beside the engine, which has the last word whether its
// engine may be tested, after fsm, which has the first. Whether a configuration is rolled out is
// decided elsewhere: by people, by workflow, and by canaries.
package experiment

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/load"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Errors that callers tell apart.
var (
	// ErrUnknown is returned for a test, group or engine that there is not.
	ErrUnknown = errors.New("unknown")
	// ErrInvalid is returned for a test that cannot be carried out as it is described.
	ErrInvalid = errors.New("the test cannot be carried out as described")
	// ErrNoEvidence is returned by Evidence for content that this node does not have.
	ErrNoEvidence = errors.New("this node does not have the evidence")
)

// Log commits commands. A refusal is in the result.
type Log interface {
	Propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error)
}

// Engines reaches the agents beside engines.
type Engines interface {
	// LoadTest returns what the agent reports; it waits until ctx ends for an agent that is away, and
	// may be asked again under the same test id.
	LoadTest(ctx context.Context, instanceID string, test *agentv1.LoadTest) ([]byte, error)
	// QualityTest as LoadTest.
	QualityTest(ctx context.Context, instanceID string, test *agentv1.QualityTest) ([]byte, error)
	// CancelTest ends a test; one that does not run needs no end.
	CancelTest(ctx context.Context, instanceID, testID string) error
	// Lease extends the probation of an epoch.
	Lease(ctx context.Context, instanceID string, epoch uint64, extend time.Duration) error
}

// Twin is a model of a group's engines.
type Twin interface {
	// Replay runs a plan on a model of one replica with the settings, in virtual time. Equal
	// arguments and draw give equal reports; each draw has other coefficients that agree with what the
	// engines show.
	Replay(ctx context.Context, group string, settings map[string]string, p load.Plan, draw int) (*load.Report, error)
	// Live describes the traffic of one replica of the group now.
	Live(ctx context.Context, group string) (load.Plan, error)
}

// Evidence keeps what is too large for the log, addressed by its SHA-256.
type Evidence interface {
	Put(content []byte) (hash string, err error)
	// Get returns ErrNoEvidence, wrapped, for what this node does not have.
	Get(hash string) ([]byte, error)
}
