package rollout

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Log commits commands. A refusal is in the result; an error says that the command was not, or
// perhaps not, committed.
type Log interface {
	Propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error)
}

// Fleet reaches agents without the log.
type Fleet interface {
	// Lease extends the probation of an epoch on an instance. It returns when the directive is on
	// its way; it is called from several goroutines.
	Lease(ctx context.Context, instanceID string, epoch uint64, extend time.Duration) error
}

// Leadership proves that this node still leads.
type Leadership interface {
	// VerifyLeader returns nil once a majority has confirmed that this node leads.
	VerifyLeader(ctx context.Context) error
}

// Telemetry holds recent one-second windows.
type Telemetry interface {
	// Windows of the instances that lie wholly within [from, to). They are shared and read-only.
	Windows(instances []string, from, to time.Time) []*fleet.Window
}

// Predictor knows what a replica could do.
type Predictor interface {
	// TokensPerSecond that the replica could sustain with the settings it runs; false when unknown.
	TokensPerSecond(i *commandv1.Instance) (float64, bool)
}

// Evidence keeps what verdicts rest on, addressed by its SHA-256.
type Evidence interface {
	Put(content []byte) (hash string, err error)
}

// Budget knows the error budgets of users.
type Budget interface {
	// Gate is what the budgets allow of a rollout in the group now; nil: nothing was promised.
	Gate(group string) *commandv1.BudgetGate
	// Overspent says in words that a rollout has certainly cost more of a budget than it may; empty: no.
	Overspent(r *commandv1.Rollout) string
}

// Judge compares a wave's changed replicas with their controls. It is pure.
type Judge interface {
	Judge(c Case) Judgement
}
