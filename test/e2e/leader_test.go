package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestKillLeader kills the leader in the middle of a wave: another one takes over, the rollout goes
// on to its end, no engine is given the configuration twice and no request is lost.
func TestKillLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, map[string]string{"chat": quick})
	replicas := w.serve("chat", 4)
	load := w.send(8, replicas...)
	r := w.roll("chat", newSettings())
	w.waitRollout(r.ID, "draining", "applying", "warming")
	var old *node
	eventually(t, "a leader is known", 10*time.Second, func() (bool, string) { old = w.leader(); return old != nil, "none" })
	old.process.kill()
	eventually(t, "a new leader", 15*time.Second, func() (bool, string) {
		n := w.leader()
		return n != nil && n != old, "none yet"
	})
	w.startNode(old)
	end := w.waitRollout(r.ID, "succeeded")
	if end.Epoch == 0 {
		t.Error("the rollout has no epoch")
	}
	w.waitServing(replicas...)
	noneFailed(t, load.end())
	for _, rep := range replicas {
		if got, want := w.starts(rep), []uint64{0, end.Epoch}; !slices.Equal(got, want) {
			t.Errorf("%s was started with epochs %v, want %v: each once", rep.name, got, want)
		}
		eventually(t, rep.name+" holds the promoted epoch", 10*time.Second, func() (bool, string) {
			s, _ := w.status(rep)
			c := w.launched(rep).Committed.Epoch
			return s.Phase == "idle" && s.LKGEpoch == end.Epoch && c == end.Epoch, fmt.Sprintf("%+v, committed %d", s, c)
		})
	}
}
