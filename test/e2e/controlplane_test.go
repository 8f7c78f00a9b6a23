package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// probationSeconds is the lease of the policies above.
const probationSeconds = 10

// TestControlPlaneGone kills all servers while a wave is on probation: with nobody to renew or
// confirm, each sidecar goes back to its last known good configuration by its own deadline.
func TestControlPlaneGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, map[string]string{"chat": patient})
	replicas := w.serve("chat", 4)
	load := w.send(4, replicas...)
	r := w.roll("chat", newSettings())
	r = w.waitRollout(r.ID, "observing")
	wave := map[*replica]bool{}
	for _, id := range r.Waves[0].Selected {
		wave[w.replicaOf(id)] = true
	}
	for _, n := range w.nodes {
		n.process.kill()
	}
	at := time.Now()
	// The wave is as large as the group may miss, so that all are in slot 0.
	eventually(t, "the wave gives up its unconfirmed configuration", (probationSeconds+3)*time.Second, func() (bool, string) {
		for v := range wave {
			if s, _ := w.status(v); s.Phase != "reverting" && s.Phase != "idle" {
				return false, fmt.Sprintf("%s: %+v", v.name, s)
			}
		}
		return true, ""
	})
	t.Logf("the last of the wave gave up %v after the servers were killed", time.Since(at).Round(10*time.Millisecond))
	eventually(t, "all serve on the last known good configuration", 20*time.Second, func() (bool, string) {
		for _, rep := range replicas {
			s, _ := w.status(rep)
			if l := w.launched(rep); s.Phase != "idle" || !s.Serving || s.RunningEpoch != 0 || l.Current.Epoch != 0 || l.Committed.Epoch != 0 {
				return false, fmt.Sprintf("%s: %+v; launcher runs %d, would start %d", rep.name, s, l.Current.Epoch, l.Committed.Epoch)
			}
		}
		return true, ""
	})
	noneFailed(t, load.end())
	for _, rep := range replicas {
		want := []uint64{0}
		if wave[rep] {
			want = []uint64{0, r.Epoch, 0}
		}
		if got := w.starts(rep); !slices.Equal(got, want) {
			t.Errorf("%s was started with epochs %v, want %v", rep.name, got, want)
		}
	}
	for _, n := range w.nodes {
		w.startNode(n)
	}
	if end := w.waitRollout(r.ID, "rolled_back"); end.Epoch != r.Epoch {
		t.Errorf("the rollout's epoch changed from %d to %d", r.Epoch, end.Epoch)
	}
	w.waitServing(replicas...)
}
