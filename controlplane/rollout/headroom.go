package rollout

import (
	"fmt"
	"slices"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Headroom of a group at one moment, in tokens per second, prompt and generated together.
type Headroom struct {
	// Load that the group's replicas carry now.
	Load float64
	// Capacity that each replica could sustain; a replica that is absent is not known.
	Capacity map[string]float64
	// Measured is false when no fresh window tells the load.
	Measured bool
}

// Allows reports whether the replicas that would remain could carry the present load and the
// policy's reserve (invariant I2), and says it in words. A negative reserve means that the operator
// does not want the question asked.
func (h Headroom) Allows(p *commandv1.Policy, members []*commandv1.Instance, leaving []string, incarnation uint64) (bool, string) {
	if p.GetReserve() < 0 {
		return true, "headroom is not checked, by the group's policy"
	}
	if !h.Measured {
		return false, "the present load is not known: no replica has reported in the last seconds"
	}
	remaining, left := 0.0, 0
	for _, i := range members {
		if slices.Contains(leaving, i.GetId()) || !fsm.Available(i, incarnation) {
			continue
		}
		c, known := h.Capacity[i.GetId()]
		if !known {
			return false, fmt.Sprintf("what replica %s could carry is not known", i.GetId())
		}
		remaining += c
		left++
	}
	if left == 0 && p.GetAllowOutage() {
		return true, "nobody is left to carry the load, which the group's policy allows"
	}
	need := h.Load * (1 + p.GetReserve())
	words := fmt.Sprintf("the others can carry %.0f tokens/s; the load is %.0f, with its reserve %.0f", remaining, h.Load, need)
	return remaining >= need, words
}
