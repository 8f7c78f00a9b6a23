package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
)

// sidecarCrash is one point of the journal at which a sidecar is killed, and the documented end.
type sidecarCrash struct {
	at    string // PERF_CRASH_AT
	abort bool   // the rollout is taken back by its operator, which is what leads to the point
	ends  string // of the rollout
	// applied says how often the engine is started with the new epoch, restored how often with the
	// operator's own again.
	applied, restored int
}

func (c sidecarCrash) group() string {
	return strings.ToLower(strings.ReplaceAll(c.at, ":", "-"))
}

// sidecarCrashes covers each phase. Where the configuration had not been handed to the engine and
// the journal cannot tell whether it was, it is taken back; where the engine runs it, it is kept.
var sidecarCrashes = []sidecarCrash{
	{at: "ACCEPTED", ends: "succeeded", applied: 1},
	{at: "DRAINING", ends: "succeeded", applied: 1},
	{at: "APPLYING:before", ends: "rolled_back"},
	{at: "APPLYING:after", ends: "succeeded", applied: 1},
	{at: "WARMING", ends: "succeeded", applied: 1},
	{at: "PROBATION", ends: "succeeded", applied: 1},
	{at: "CONFIRMED", ends: "succeeded", applied: 1},
	{at: "REVERTING:before", abort: true, ends: "rolled_back", applied: 1, restored: 1},
	{at: "REVERTING:after", abort: true, ends: "rolled_back", applied: 1, restored: 1},
}

// TestKillSidecar kills a sidecar at each point of its journal and starts it again on the same data
// folder. Each point has a group of its own, so that all happen side by side.
func TestKillSidecar(t *testing.T) {
	policies := map[string]string{}
	for _, c := range sidecarCrashes {
		policies[c.group()] = quick + alone
		if c.abort {
			policies[c.group()] = patient + alone
		}
	}
	w := newWorld(t, 1, policies)
	for _, c := range sidecarCrashes {
		r := w.add(c.group(), c.group())
		w.startLauncher(r)
		w.startAgent(r, crashingAgent, "PERF_CRASH_AT="+c.at)
	}
	w.waitServing(w.replicas...)
	rollouts := map[string]api.Rollout{}
	for _, c := range sidecarCrashes {
		rollouts[c.group()] = w.roll(c.group(), newSettings())
	}
	ended := superviseSidecars(w, rollouts)
	for i, c := range sidecarCrashes {
		t.Run(c.at, func(t *testing.T) { c.check(t, w, w.replicas[i], ended[c.group()]) })
	}
}

// superviseSidecars starts killed sidecars again, as a container runtime would, until all rollouts
// have ended. Each must have been killed by then.
func superviseSidecars(w *world, rollouts map[string]api.Rollout) map[string]api.Rollout {
	w.t.Helper()
	killed, aborted := map[string]bool{}, map[string]bool{}
	eventually(w.t, "all rollouts have ended", rollLimit, func() (bool, string) {
		open := ""
		for i, c := range sidecarCrashes {
			r, rep := rollouts[c.group()], w.replicas[i]
			if !rep.agent.alive() && !killed[c.group()] {
				killed[c.group()] = true
				w.startAgent(rep, crashingAgent)
			}
			if r.Ended == nil {
				r = w.rollout(r.ID)
				rollouts[c.group()] = r
			}
			if r.State == "observing" && c.abort && !aborted[c.group()] {
				aborted[c.group()] = true
				if err := w.post("/rollout/rollback", "", map[string]string{"id": r.ID, "reason": "process test"}, nil); err != nil {
					w.t.Fatal(err)
				}
			}
			if !c.abort {
				w.pass(r) // no traffic here: a person passes the wave
			}
			if r.Ended == nil || !killed[c.group()] {
				s, _ := w.status(rep)
				open += fmt.Sprintf("%s is %s, killed %v, sidecar %+v\n%s", c.at, r.State, killed[c.group()], s, story(r))
			}
		}
		return open == "", open
	})
	return rollouts
}

func (c sidecarCrash) check(t *testing.T, w *world, rep *replica, r api.Rollout) {
	if r.State != c.ends {
		t.Errorf("the rollout ended %s (%s), want %s\n%s", r.State, r.EndReason, c.ends, story(r))
	}
	want := []uint64{0}
	for range c.applied {
		want = append(want, r.Epoch)
	}
	for range c.restored {
		want = append(want, 0)
	}
	good := uint64(0)
	if c.ends == "succeeded" {
		good = r.Epoch
	}
	eventually(t, "the replica serves what it should", 20*time.Second, func() (bool, string) {
		s, _ := w.status(rep)
		l := w.launched(rep)
		ok := s.Phase == "idle" && s.Serving && s.LKGEpoch == good && s.RunningEpoch == good && l.Current.Epoch == good && l.Committed.Epoch == good
		return ok, fmt.Sprintf("want epoch %d; sidecar %+v; launcher runs %d, would start %d", good, s, l.Current.Epoch, l.Committed.Epoch)
	})
	if got := w.starts(rep); !slices.Equal(got, want) {
		t.Errorf("the engine was started with epochs %v, want %v", got, want)
	}
	if n := w.launched(rep).UnrequestedExits; n != 0 {
		t.Errorf("the engine ended by itself %d times: a sidecar's end is none of its business", n)
	}
}
