package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"
)

// killLauncher is kill -9 of the launcher, whose engine goes on without it, and a fresh start on the
// same state folder. It returns the engine process that was left behind.
func killLauncher(w *world, r *replica) (orphan int) {
	w.t.Helper()
	orphan = w.launched(r).PID
	if orphan <= 1 {
		w.t.Fatalf("%s has no engine: %+v", r.name, w.launched(r))
	}
	r.launcher.kill()
	w.startLauncher(r)
	return orphan
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// notReadyMeanwhile waits until readiness says no, and then until the left-behind engine is gone.
func notReadyMeanwhile(w *world, r *replica, orphan int) {
	w.t.Helper()
	eventually(w.t, "readiness says no while the engine is replaced", 10*time.Second, func() (bool, string) {
		code := w.ready(r)
		return code == http.StatusServiceUnavailable, fmt.Sprintf("/ready says %d", code)
	})
	eventually(w.t, "the engine that was left behind is ended", 15*time.Second, func() (bool, string) {
		return gone(orphan), fmt.Sprintf("process %d lives", orphan)
	})
}

// TestKillLauncher kills the launcher of a serving engine: its successor ends the whole tree that was
// left behind and starts the engine again.
func TestKillLauncher(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": quick})
	replicas := w.serve("chat", 2)
	load := w.send(6, replicas...)
	victim, at := replicas[0], time.Now()
	orphan := killLauncher(w, victim)
	notReadyMeanwhile(w, victim, orphan)
	w.waitServing(replicas...)
	load.goesOn(12)
	onlyAtTheVictim(t, load.end(), victim, at)
	if got := w.starts(victim); !slices.Equal(got, []uint64{0, 0}) {
		t.Errorf("epochs started: %v, want the operator's own twice", got)
	}
}

// TestKillLauncherOnProbation kills the launcher while its engine tries a configuration: what nobody
// confirmed is never started again, and the rollout is rolled back.
func TestKillLauncherOnProbation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": patient})
	replicas := w.serve("chat", 2)
	load := w.send(4, replicas...)
	r := w.roll("chat", newSettings())
	r = w.waitRollout(r.ID, "observing")
	victim, at := w.replicaOf(r.Waves[0].Selected[0]), time.Now()
	orphan := killLauncher(w, victim)
	notReadyMeanwhile(w, victim, orphan)
	r = w.waitRollout(r.ID, "rolled_back")
	w.waitServing(replicas...)
	load.goesOn(12)
	onlyAtTheVictim(t, load.end(), victim, at)
	if got, want := w.starts(victim), []uint64{0, r.Epoch, 0}; !slices.Equal(got, want) {
		t.Errorf("epochs started: %v, want %v", got, want)
	}
	if s, _ := w.status(victim); s.LKGEpoch != 0 || s.RunningEpoch != 0 || s.FailedEpoch != r.Epoch {
		t.Errorf("sidecar: %+v; want the operator's own configuration, failed epoch %d", s, r.Epoch)
	}
}
