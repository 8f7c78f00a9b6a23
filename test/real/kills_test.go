//go:build real

package real

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
	"github.com/optiinfra/performance-agent/test/real/demo/stage"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// Limits of what follows a kill.
const (
	outLimit = 8 * time.Second // a dead part may go unnoticed: SGLang's front process waits five seconds for its scheduler
	goneTime = 20 * time.Second
)

// lightly is traffic that any setting serves.
var lightly = stage.Traffic{Rate: 3, PromptWords: 20, OutputTokens: 24, Seed: 3}

// kills is one stage that is hurt again and again.
type kills struct {
	t     *testing.T
	stage *stage.Stage
	r     *stage.Replica
	load  *stage.Load
}

// TestKills kills every part beside a real engine with -9 under load. Each time the engine comes back,
// what was left behind is ended, and requests fail only if an answer had begun that the kill cut.
func TestKills(t *testing.T) {
	s, err := stage.Open(stage.Options{Recipe: recipe(t), Bin: bin(t), Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("logs are kept in %s", s.LogDir())
			return
		}
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := s.WaitServing(t.Context()); err != nil {
		t.Fatal(err)
	}
	load, err := s.Send(lightly)
	if err != nil {
		t.Fatal(err)
	}
	k := &kills{t: t, stage: s, r: s.Replicas[0], load: load}
	k.answered(5)
	for _, c := range []struct {
		name string
		do   func(*kills)
	}{
		{"front process", (*kills).front},
		{"engine core or scheduler", (*kills).core},
		{"sidecar", (*kills).sidecar},
		{"launcher", (*kills).launcher},
		{"sidecar on probation", (*kills).sidecarOnProbation},
		{"engine core on probation", (*kills).coreOnProbation},
	} {
		if !t.Run(c.name, func(t *testing.T) { at := *k; at.t = t; c.do(&at) }) {
			return // the next would begin on ruins
		}
	}
	k.onlyCut(load.End())
}

// front kills the process that serves HTTP.
func (k *kills) front() {
	tree := k.tree()
	k.kill(tree[0])
	k.replaced(tree)
}

// core kills the process that holds the model.
func (k *kills) core() {
	tree := k.tree()
	k.kill(k.worker(tree))
	k.replaced(tree)
}

// sidecar kills the sidecar: its engine goes on, and a new one finds it as it is.
func (k *kills) sidecar() {
	tree, before := k.tree(), k.status()
	at := time.Now()
	k.r.Sidecar.Kill()
	k.restartSidecar()
	if after := k.tree(); after[0] != tree[0] {
		k.t.Errorf("the engine was process %d and is %d: it must live on without its sidecar", tree[0], after[0])
	}
	if after := k.status(); after.RunningEpoch != before.RunningEpoch || after.LKGEpoch != before.LKGEpoch {
		k.t.Errorf("the new sidecar says %+v, the old one said %+v", after, before)
	}
	k.answered(5)
	k.unhurt(at)
}

// launcher kills the launcher: its successor ends the engine that was left behind and starts it again.
func (k *kills) launcher() {
	tree := k.tree()
	k.r.Launcher.Kill()
	if err := k.stage.StartLauncher(k.r); err != nil {
		k.t.Fatal(err)
	}
	k.replaced(tree)
}

// sidecarOnProbation kills the sidecar while its engine is on a new configuration: the next one goes on
// from its journal, and the rollout ends as it would have. A person passes its wave: what was held during
// the restart makes requests slow for a while, which is not this test's subject.
func (k *kills) sidecarOnProbation() {
	end := k.roll(harmless(k.t))
	epoch := k.onProbation()
	k.r.Sidecar.Kill()
	k.restartSidecar()
	if err := k.stage.Pass(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	r := <-end
	if r.State != "succeeded" {
		k.t.Errorf("the rollout ended %s: %s", r.State, r.EndReason)
	}
	if s := k.status(); s.RunningEpoch != epoch || s.LKGEpoch != epoch {
		k.t.Errorf("the sidecar says %+v, want epoch %d promoted", s, epoch)
	}
	k.answered(5)
}

// coreOnProbation kills the engine's core while it tries a configuration: it is taken back.
func (k *kills) coreOnProbation() {
	before := k.status()
	end := k.roll(otherwise(k.t))
	epoch := k.onProbation()
	tree := k.tree()
	k.kill(k.worker(tree))
	r := <-end
	// Whichever is seen first: the core's death in the log, or the end of the process that it takes with it.
	if r.State != "rolled_back" || !strings.Contains(r.EndReason, "ended") && !strings.Contains(r.EndReason, "engine core died") {
		k.t.Errorf("the rollout ended %s: %s; want it rolled back because the engine core died or the engine ended", r.State, r.EndReason)
	}
	k.wait("what was left behind is gone", goneTime, func() bool { return k.gone(tree) })
	if s := k.status(); s.RunningEpoch != before.RunningEpoch || s.FailedEpoch != epoch {
		k.t.Errorf("the sidecar says %+v, want epoch %d again and %d failed", s, before.RunningEpoch, epoch)
	}
	k.answered(5)
}

// harmless and otherwise are settings that any traffic of this test is served with.
func harmless(t *testing.T) map[string]string { return limitOf(t, "16") }

func otherwise(t *testing.T) map[string]string { return limitOf(t, "12") }

func limitOf(t *testing.T, n string) map[string]string {
	if kind(t) == engine.SGLang {
		return map[string]string{"max_running_requests": n}
	}
	return map[string]string{"max_num_seqs": n}
}

// tree are the engine's processes, its front process first.
func (k *kills) tree() []int {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
	defer cancel()
	s, err := k.r.Socket.Status(ctx)
	if err != nil || s.PID <= 1 {
		k.t.Fatalf("the launcher names no engine: %+v, %v", s, err)
	}
	return append([]int{s.PID}, stage.Descendants(s.PID)...)
}

// worker is the process of the tree that gave itself the title of the model's holder.
func (k *kills) worker(tree []int) int {
	k.t.Helper()
	title := map[engine.Kind]string{engine.VLLM: "VLLM::EngineCor", engine.SGLang: "sglang::scheduler"}[kind(k.t)]
	var seen []string
	for _, pid := range tree {
		command := stage.CommandOf(pid)
		if strings.HasPrefix(command, title) {
			return pid
		}
		seen = append(seen, command)
	}
	k.t.Fatalf("no process is titled %s among %q", title, seen)
	return 0
}

func (k *kills) kill(pid int) {
	k.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		k.t.Fatalf("kill %d: %v", pid, err)
	}
}

// replaced waits until the engine has left rotation, its old processes are gone and a new one serves.
func (k *kills) replaced(tree []int) {
	k.t.Helper()
	from := time.Now()
	k.wait("it leaves rotation", outLimit, func() bool { return !k.stage.Ready(k.t.Context(), k.r) })
	out := time.Since(from)
	k.wait(fmt.Sprintf("the old processes %v are gone", tree), goneTime, func() bool { return k.gone(tree) })
	gone := time.Since(from)
	k.startIsTold()
	if err := k.stage.WaitServing(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	k.t.Logf("out of rotation after %.1f s, %d old processes gone after %.1f s, serving again after %.1f s", out.Seconds(), len(tree), gone.Seconds(), time.Since(from).Seconds())
	k.answered(5)
	k.caughtUp()
}

// caughtUp waits until what was held during a restart is served. vLLM sends its headers before it takes
// a request in, and an answer that has begun cannot be sent again: killed amid a backlog, it would cut
// requests without a token.
func (k *kills) caughtUp() {
	k.t.Helper()
	k.wait("the backlog is served", 2*time.Minute, func() bool {
		waiting, open := k.stage.Gateway().Queue()
		return waiting == 0 && open <= usuallyOpen
	})
}

// usuallyOpen bounds the requests that are open at once under light traffic.
const usuallyOpen = 4

// startIsTold: while the engine starts, the control plane tells how far it has come.
func (k *kills) startIsTold() {
	k.t.Helper()
	var last api.Engine
	k.wait("the control plane tells the steps of the start", engine.StartLimit, func() bool {
		e, err := k.stage.Engine(k.t.Context(), k.r)
		if err == nil {
			last = e
		}
		// "serving" was said by the process before
		return err == nil && !e.Serving && len(e.StartSteps) > 0 && !slices.Contains(e.StartSteps, "serving")
	})
	k.t.Logf("starting: %s", strings.Join(last.StartSteps, "; "))
}

func (k *kills) gone(pids []int) bool {
	for _, pid := range pids {
		if !stage.Gone(pid) {
			return false
		}
	}
	return true
}

func (k *kills) restartSidecar() {
	k.t.Helper()
	if err := k.stage.StartSidecar(k.r); err != nil {
		k.t.Fatal(err)
	}
	if err := k.stage.WaitServing(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kills) status() stage.Sidecar {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
	defer cancel()
	s, err := k.stage.Status(ctx, k.r)
	if err != nil {
		k.t.Fatal(err)
	}
	return s
}

// ended is how a rollout ended.
type ended struct{ State, EndReason string }

// roll starts a rollout; its end comes on the channel.
func (k *kills) roll(settings map[string]string) <-chan ended {
	end := make(chan ended, 1)
	go func() {
		r, err := k.stage.Roll(k.t.Context(), settings, "the test of kills", k.t.Logf)
		if err != nil {
			k.t.Error(err)
		}
		end <- ended{r.State, r.EndReason}
	}()
	return end
}

// onProbation waits until the engine serves a configuration that nobody has confirmed.
func (k *kills) onProbation() (epoch uint64) {
	k.t.Helper()
	k.wait("the engine serves on probation", engine.StartLimit, func() bool {
		s, err := k.stage.Status(k.t.Context(), k.r)
		epoch = s.RunningEpoch
		return err == nil && s.Serving && s.RunningEpoch != s.LKGEpoch
	})
	return epoch
}

// answered waits until so many more requests have been answered.
func (k *kills) answered(n int) {
	k.t.Helper()
	served := func() int {
		all := k.load.Records()
		return len(all) - len(stage.Failures(all))
	}
	from := served()
	k.wait(fmt.Sprintf("%d requests are answered", n), 2*time.Minute, func() bool { return served() >= from+n })
}

// unhurt: none of the requests sent since at has failed.
func (k *kills) unhurt(at time.Time) {
	k.t.Helper()
	for _, r := range stage.Failures(k.load.Records()) {
		if r.Sent.After(at) {
			k.t.Errorf("request %d failed: %s %s", r.Number, r.Failed, r.Detail)
		}
	}
}

// onlyCut: of all requests, only those failed whose answer had begun, for nobody can send them again.
func (k *kills) onlyCut(records []loadtest.Record) {
	k.t.Helper()
	failed := stage.Failures(records)
	for _, r := range failed {
		if r.FirstToken.IsZero() {
			k.t.Errorf("request %d, sent %s, failed before its answer began: %s %s", r.Number, r.Sent.Format(time.TimeOnly), r.Failed, r.Detail)
		}
	}
	k.t.Logf("%d requests, %d of them cut by the kills, %d sent again by the gateway", len(records), len(failed), k.stage.Gateway().Resent())
}

func (k *kills) wait(what string, limit time.Duration, done func() bool) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), limit)
	defer cancel()
	err := client.Wait(ctx, 50*time.Millisecond, func(context.Context) (bool, error) { return done(), nil })
	if errors.Is(err, context.DeadlineExceeded) {
		k.t.Fatalf("%s: not within %s", what, limit)
	}
	if err != nil {
		k.t.Fatalf("%s: %v", what, err)
	}
}
