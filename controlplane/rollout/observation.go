package rollout

import (
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Observation is what Next needs to know besides the record.
type Observation struct {
	Now         time.Time
	Term        uint64 // of this leadership
	Incarnation uint64 // of the cluster
	// Members of the group, in order of their ids.
	Members []*commandv1.Instance
	// LockHolder of the group, empty when nobody holds it.
	LockHolder string
	// First tells that no older rollout waits for the same group.
	First bool
	// Budget is what the error budgets allow, asked before the rollout starts.
	Budget *commandv1.BudgetGate
	// Guard that fires now, nil when all is well.
	Guard *Guard
	// Verdict on the current wave, nil when it was not judged this time.
	Verdict *commandv1.Verdict
	// Headroom of the group under its present load.
	Headroom Headroom
	// Baseline of the group over the last minutes, used when the first wave is planned.
	Baseline *commandv1.Measured
}

// Guard is a hard fault that needs no statistics, or a regression beyond the hard margin.
type Guard struct {
	Reason       string
	Since        time.Time // first sign of harm
	EvidenceHash string
}

// capacity of the group as the rollout's policy sees it.
func (o Observation) capacity(r *commandv1.Rollout) fsm.Capacity {
	return fsm.CapacityOf(r.GetPolicy(), o.Members, o.Incarnation)
}

func (o Observation) nowMs() int64 { return o.Now.UnixMilli() }

// past reports whether a deadline in Unix milliseconds has passed; 0 is none.
func (o Observation) past(ms int64) bool { return ms != 0 && o.nowMs() >= ms }
