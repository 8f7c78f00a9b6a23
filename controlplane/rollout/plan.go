package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// unknownRestartMs stands in where no adapter has estimated a restart.
const unknownRestartMs = 60_000

// planWave chooses the replicas of the next wave and their controls; nil while none can be changed
// or the load does not allow one batch.
func planWave(r *commandv1.Rollout, o Observation) *Step {
	index := len(r.GetWaves())
	if index >= len(r.GetPolicy().GetSteps()) {
		return nil
	}
	selected := choose(r, o, r.GetPolicy().GetSteps()[index])
	if index == 0 && len(selected) == 0 {
		return nil
	}
	if len(selected) > 0 {
		if ok, _ := o.Headroom.Allows(r.GetPolicy(), o.Members, selected[:1], o.Incarnation); !ok && !mutant.On(MutantI2) {
			return nil
		}
	}
	plan := &commandv1.PlanWave{
		Index: uint32(index), Selected: selected, Controls: controls(r, o, selected),
		DeadlineMs: o.nowMs() + waveTime(r, o, len(selected)),
	}
	if index == 0 {
		plan.Baseline = o.Baseline
	}
	return &Step{Step: &commandv1.StepRollout_PlanWave{PlanWave: plan}}
}

// waveTime is the time a wave may take: the policy's limit, and three restarts for each batch
// beyond the first.
func waveTime(r *commandv1.Rollout, o Observation, replicas int) int64 {
	restart := int64(0)
	for _, i := range o.Members {
		restart = max(restart, i.GetRestartEstimateMs())
	}
	width := max(int(r.GetPolicy().GetMaxUnavailable()), 1)
	batches := int64((replicas + width - 1) / width)
	return r.GetPolicy().GetWaveDeadlineMs() + max(batches-1, 0)*3*cmp.Or(restart, unknownRestartMs)
}

// choose picks the replicas that the step adds, in the seeded order.
func choose(r *commandv1.Rollout, o Observation, percent uint32) []string {
	taken := map[string]bool{}
	for _, w := range r.GetWaves() {
		for _, id := range w.GetSelected() {
			taken[id] = true
		}
	}
	want := fsm.WaveTarget(len(o.Members), percent) - len(taken)
	if len(r.GetWaves()) == 0 {
		want = fsm.FirstWaveTarget(r, len(o.Members), percent)
	}
	var selected []string
	for _, i := range Order(r.GetSeed(), o.Members) {
		if len(selected) >= want {
			break
		}
		if !taken[i.GetId()] && fsm.Changeable(r, i, o.Incarnation) {
			selected = append(selected, i.GetId())
		}
	}
	return selected
}

// Order is the seeded order in which a group's replicas are changed: random, and spread over
// agents, so that the first canaries do not share a machine where that can be avoided.
func Order(seed uint64, members []*commandv1.Instance) []*commandv1.Instance {
	drawn := slices.Clone(members)
	slices.SortFunc(drawn, func(a, b *commandv1.Instance) int {
		return cmp.Or(cmp.Compare(draw(seed, a.GetId()), draw(seed, b.GetId())), cmp.Compare(a.GetId(), b.GetId()))
	})
	turn := map[string]int{} // how many of an agent's instances come before
	rank := map[string]int{}
	for _, i := range drawn {
		rank[i.GetId()] = turn[i.GetAgentId()]
		turn[i.GetAgentId()]++
	}
	slices.SortStableFunc(drawn, func(a, b *commandv1.Instance) int {
		return cmp.Compare(rank[a.GetId()], rank[b.GetId()])
	})
	return drawn
}

// draw is a number that depends on the seed and the id alone.
func draw(seed uint64, id string) uint64 {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, seed), id...))
	return binary.BigEndian.Uint64(sum[:8])
}

// controls are the replicas that keep the parent during the wave, on the hardware of those changed.
func controls(r *commandv1.Rollout, o Observation, selected []string) []string {
	changed := append(slices.Clone(selected), selectedBefore(r)...)
	hardware := map[string]bool{}
	for _, i := range o.Members {
		if slices.Contains(changed, i.GetId()) {
			hardware[i.GetHardware()] = true
		}
	}
	var ids []string
	for _, i := range o.Members {
		if !slices.Contains(changed, i.GetId()) && hardware[i.GetHardware()] && fsm.Available(i, o.Incarnation) {
			ids = append(ids, i.GetId())
		}
	}
	return ids
}

func selectedBefore(r *commandv1.Rollout) []string {
	var ids []string
	for _, w := range r.GetWaves() {
		ids = append(ids, w.GetSelected()...)
	}
	return ids
}

// nextBatch is the largest batch that capacity (I1) and headroom (I2) allow now; nil when the wave
// is offered whole or nothing may leave rotation.
func nextBatch(r *commandv1.Rollout, o Observation) *Step {
	w := fsm.CurrentWave(r)
	var ready, broken []string
	for _, i := range o.Members {
		if !slices.Contains(w.GetSelected(), i.GetId()) || !fsm.Changeable(r, i, o.Incarnation) {
			continue
		}
		if i.GetState().GetServing() {
			ready = append(ready, i.GetId())
		} else {
			broken = append(broken, i.GetId())
		}
	}
	slices.SortFunc(ready, func(a, b string) int {
		return cmp.Compare(slices.Index(w.GetSelected(), a), slices.Index(w.GetSelected(), b))
	})
	if len(broken) > 0 {
		return batch(w, broken, "they are out of rotation already")
	}
	c := o.capacity(r)
	for k := min(len(ready), max(int(r.GetPolicy().GetMaxUnavailable()), 1)); k > 0; k-- {
		if !c.Admits(k) && !mutant.On(MutantI1) {
			continue
		}
		ok, words := o.Headroom.Allows(r.GetPolicy(), o.Members, ready[:k], o.Incarnation)
		if ok || mutant.On(MutantI2) {
			return batch(w, ready[:k], words)
		}
	}
	return nil
}

func batch(w *commandv1.Wave, ids []string, headroom string) *Step {
	return &Step{Step: &commandv1.StepRollout_NextBatch{NextBatch: &commandv1.NextBatch{
		Wave: w.GetIndex(), Instances: ids, HeadroomOk: true, Headroom: headroom,
	}}}
}

// Canaries are the replicas in rotation on the rollout's epoch.
func Canaries(r *commandv1.Rollout, members []*commandv1.Instance, incarnation uint64) []string {
	var ids []string
	for _, i := range members {
		if fsm.StageOf(r, i, incarnation) == fsm.Serving {
			ids = append(ids, i.GetId())
		}
	}
	return ids
}

// Controls are the planned controls of the current wave that still serve on another epoch.
func Controls(r *commandv1.Rollout, members []*commandv1.Instance, incarnation uint64) []string {
	w := fsm.CurrentWave(r)
	var ids []string
	for _, i := range members {
		if slices.Contains(w.GetControls(), i.GetId()) && fsm.Available(i, incarnation) && i.GetState().GetRunningEpoch() != r.GetEpoch() {
			ids = append(ids, i.GetId())
		}
	}
	return ids
}
