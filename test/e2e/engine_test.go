package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
)

// outLimit is how long a dead engine may stay in rotation.
const outLimit = 2 * time.Second

// killEngine is kill -9 of the engine's front process.
func killEngine(w *world, r *replica) {
	w.t.Helper()
	pid := w.launched(r).PID
	if pid <= 1 {
		w.t.Fatalf("%s has no engine: %+v", r.name, w.launched(r))
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatalf("kill the engine of %s: %v", r.name, err)
	}
}

// outOfRotation waits until /ready says no.
func outOfRotation(w *world, r *replica) {
	w.t.Helper()
	from := time.Now()
	eventually(w.t, r.name+" is out of rotation", outLimit, func() (bool, string) {
		code := w.ready(r)
		return code == http.StatusServiceUnavailable, fmt.Sprintf("/ready says %d", code)
	})
	w.t.Logf("%s left rotation %v after the kill", r.name, time.Since(from).Round(time.Millisecond))
}

// TestKillEngine kills an engine that serves its promoted configuration: it leaves rotation, is
// restarted by its launcher and comes back; the others serve on.
func TestKillEngine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": quick})
	replicas := w.serve("chat", 2)
	load := w.send(6, replicas...)
	victim, at := replicas[0], time.Now()
	killEngine(w, victim)
	outOfRotation(w, victim)
	w.waitServing(replicas...)
	load.goesOn(12)
	onlyAtTheVictim(t, load.end(), victim, at)
	if got := w.starts(victim); !slices.Equal(got, []uint64{0, 0}) {
		t.Errorf("epochs started: %v, want the operator's own twice", got)
	}
	if n := w.launched(victim).UnrequestedExits; n != 1 {
		t.Errorf("the launcher saw %d exits that nobody asked for, want 1", n)
	}
}

// onlyAtTheVictim: a crash costs the requests it cut and those sent until the engine left rotation,
// nothing elsewhere and nothing later.
func onlyAtTheVictim(t *testing.T, records []loadtest.Record, victim *replica, at time.Time) {
	t.Helper()
	returned := false
	for _, r := range records {
		here := strings.HasPrefix(r.Target, victim.engineURL())
		switch {
		case r.Failed == "":
			returned = returned || here && r.Sent.After(at.Add(outLimit))
		case !here || r.Sent.After(at.Add(outLimit+time.Second)):
			t.Errorf("request %d to %s sent %v after the kill failed: %s %s", r.Number, r.Target, r.Sent.Sub(at), r.Failed, r.Detail)
		}
	}
	if !returned {
		t.Error("no request was answered by the engine after its return")
	}
}

// TestKillEngineOnProbation kills an engine that tries a configuration: the sidecar takes it back by
// itself, the rollout is rolled back, and reason and last lines are there to read.
func TestKillEngineOnProbation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": patient})
	replicas := w.serve("chat", 2)
	load := w.send(4, replicas...)
	r := w.roll("chat", newSettings())
	r = w.waitRollout(r.ID, "observing")
	victim := w.replicaOf(r.Waves[0].Selected[0])
	at := time.Now()
	killEngine(w, victim)
	outOfRotation(w, victim)
	r = w.waitRollout(r.ID, "rolled_back")
	w.waitServing(replicas...)
	load.goesOn(12)
	onlyAtTheVictim(t, load.end(), victim, at)
	if got, want := w.starts(victim), []uint64{0, r.Epoch, 0}; !slices.Equal(got, want) {
		t.Errorf("epochs started: %v, want %v", got, want)
	}
	e, err := w.engine(victim)
	if err != nil {
		t.Fatal(err)
	}
	if e.Phase != "idle" || e.FailedEpoch != r.Epoch || e.LastKnownGood != 0 || e.RunningEpoch != 0 {
		t.Errorf("the engine is %s on epoch %d, last known good %d, failed %d; want idle on 0, failed %d", e.Phase, e.RunningEpoch, e.LastKnownGood, e.FailedEpoch, r.Epoch)
	}
	if !strings.Contains(e.FailedReason, "ended") {
		t.Errorf("reason %q does not say that the engine ended", e.FailedReason)
	}
	if strings.TrimSpace(e.FailedLog) == "" {
		t.Error("the engine's last lines are not there to read")
	}
	if !strings.Contains(r.EndReason, victim.name) || !strings.Contains(r.EndReason, "ended") {
		t.Errorf("the rollout's reason %q does not say which engine ended", r.EndReason)
	}
}

// replicaOf finds a replica by its instance id.
func (w *world) replicaOf(instance string) *replica {
	w.t.Helper()
	for _, r := range w.replicas {
		if strings.HasPrefix(instance, r.name+"/") {
			return r
		}
	}
	w.t.Fatalf("no replica %s", instance)
	return nil
}
