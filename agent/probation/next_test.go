package probation_test

import (
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	. "github.com/optiinfra/performance-agent/agent/probation"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

const (
	accepted  = agentv1.AckResult_ACK_RESULT_ACCEPTED
	duplicate = agentv1.AckResult_ACK_RESULT_DUPLICATE
	stale     = agentv1.AckResult_ACK_RESULT_STALE
	refused   = agentv1.AckResult_ACK_RESULT_REFUSED
	reverted  = agentv1.AckResult_ACK_RESULT_REVERTED
)

// onProbation is a world whose engine serves epoch 10 on probation.
func onProbation(t *testing.T, hot bool) *world {
	t.Helper()
	w := newWorld()
	w.until(Idle)
	for range 3 {
		w.second()
	}
	w.feed(Directed{Now: w.now, Directive: offer(at(10), 10), Hot: hot})
	if w.reply.Result != accepted {
		t.Fatalf("offer: %v", w.reply)
	}
	w.until(Probation)
	if w.broken != nil {
		t.Fatal(w.broken)
	}
	return w
}

func TestTheWholeWay(t *testing.T) {
	w := onProbation(t, false)
	if ok, why := w.s.Serving(); !ok {
		t.Fatalf("not in rotation on probation: %s", why)
	}
	if got := w.direct(confirm(at(11), 10)); got != accepted || w.s.Phase != Confirmed || w.s.LKG.Epoch != 0 {
		t.Fatalf("confirm: %v, %v, lkg %d", got, w.s.Phase, w.s.LKG.Epoch)
	}
	w.second()
	if w.committed.Epoch != 10 {
		t.Errorf("a confirmed epoch is not the restart source: %d", w.committed.Epoch)
	}
	if got := w.direct(promote(at(12), 10)); got != accepted || w.s.Phase != Idle || w.s.LKG.Epoch != 10 {
		t.Fatalf("promote: %v, %v, lkg %d", got, w.s.Phase, w.s.LKG.Epoch)
	}
	if ok, why := w.s.Serving(); !ok {
		t.Errorf("promotion took the instance out of rotation: %s", why)
	}
}

func TestPhasesInOrder(t *testing.T) {
	w := newWorld()
	for range 3 {
		w.second()
	}
	w.direct(offer(at(10), 10))
	var seen []Phase
	for range 40 {
		if n := len(seen); n == 0 || seen[n-1] != w.s.Phase {
			seen = append(seen, w.s.Phase)
		}
		if ok, _ := w.s.Serving(); ok && w.s.Phase > Accepted && w.s.Phase < Probation {
			t.Errorf("in rotation while %v", w.s.Phase)
		}
		w.advance(500 * time.Millisecond)
		w.tick()
		if w.s.Phase == Applying {
			w.perform()
			w.deliver()
			seen = append(seen, Applying)
		}
		w.load(0)
		w.health(Healthy)
		w.token(TokenServed)
	}
	want := []Phase{Accepted, Draining, Applying, Warming, Probation}
	if len(seen) != len(want) {
		t.Fatalf("phases %v, want %v", seen, want)
	}
	for i := range want {
		if seen[i] != want[i] {
			t.Fatalf("phases %v, want %v", seen, want)
		}
	}
}

func TestHotNeedsNoDrain(t *testing.T) {
	w := onProbation(t, true)
	if w.engine.Epoch != 0 || w.pids != 1 {
		t.Error("a hot change restarted the engine")
	}
	w.advance(2*time.Minute + time.Second) // slot 1 of 30 s does not count for hot changes
	w.tick()
	w.perform()
	w.perform()
	if w.s.Phase != Reverting {
		t.Fatalf("lease over, but %v", w.s.Phase)
	}
	w.until(Idle)
	if w.pids != 1 || w.s.HotEpoch != 0 {
		t.Errorf("hot revert: %d processes, runs epoch %d", w.pids, w.s.HotEpoch)
	}
}

// TestHotChangeOfAReplacedProcess: the launcher replaces the process while a change is on its way to
// it. The new process may have got the change, so it is changed back.
func TestHotChangeOfAReplacedProcess(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"answered":    (*world).deliver,
		"agent crash": (*world).crash,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.second()
			w.feed(Directed{Now: w.now, Directive: offer(at(10), 10), Hot: true})
			w.tick()
			if w.s.Phase != Applying {
				t.Fatalf("%v", w.s.Phase)
			}
			w.spawn(w.committed)
			w.perform()
			end(w)
			changed := false
			for _, a := range w.pending {
				back, ok := a.(Apply)
				changed = changed || ok && back.Restore && back.To.Epoch == 0
			}
			if w.s.Phase != Reverting || !changed {
				t.Errorf("%v with %v", w.s.Phase, w.pending)
			}
			w.until(Idle)
			if w.broken != nil {
				t.Error(w.broken)
			}
		})
	}
}

func TestDrain(t *testing.T) {
	cases := []struct {
		name  string
		load  func(second int) int
		after time.Duration // to Applying, at most
		least time.Duration
		cut   int
	}{
		{"idle engine waits for balancers", func(int) int { return 0 }, 4 * time.Second, 2 * time.Second, 0},
		{"requests finish", func(s int) int { return max(0, 10-s) }, 14 * time.Second, 10 * time.Second, 0},
		{"one zero among others is no zero", func(s int) int { return (s + 1) % 2 }, 62 * time.Second, 60 * time.Second, 0},
		{"limit cuts", func(int) int { return 3 }, 62 * time.Second, 60 * time.Second, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			for range 3 {
				w.second()
			}
			w.direct(offer(at(10), 10))
			w.tick()
			from := w.now.Boot
			for s := 0; w.s.Phase == Draining; s++ {
				w.advance(time.Second)
				w.load(c.load(s))
				w.tick()
			}
			took := w.now.Boot - from
			if w.s.Phase != Applying || took < c.least || took > c.after {
				t.Errorf("%v after %v", w.s.Phase, took)
			}
			if c.name == "limit cuts" && w.s.Cut != c.cut {
				t.Errorf("cut %d, want %d", w.s.Cut, c.cut)
			}
		})
	}
}

func TestGuards(t *testing.T) {
	three := func(h Health) func(*world) {
		return func(w *world) {
			for range 3 {
				w.advance(500 * time.Millisecond)
				w.health(h)
			}
		}
	}
	traffic := func(s Sample) func(*world) {
		return func(w *world) {
			s.Span = 10 * time.Second
			w.advance(11 * time.Second)
			w.feed(Trafficked{Now: w.now, Gen: w.s.Watch.Gen, Sample: s})
		}
	}
	cases := []struct {
		name  string
		fault func(*world)
		fires bool
	}{
		{"unrequested exit", func(w *world) { w.engine.Exits, w.engine.State = 1, launch.Exited; w.observe() }, true},
		{"crash loop", func(w *world) { w.engine.State = launch.CrashLoop; w.observe() }, true},
		{"other configuration", func(w *world) { w.spawn(Config{}); w.observe() }, true},
		{"NaN", func(w *world) { w.token(TokenNaN) }, true},
		{"empty output", func(w *world) { w.token(TokenEmpty) }, true},
		{"probe prompt unanswered", func(w *world) { w.token(TokenFailed) }, false},
		{"fatal log line", func(w *world) { w.feed(Fatal{Now: w.now, Gen: w.s.Watch.Gen, Words: "out of memory"}) }, true},
		{"log line of the engine before", func(w *world) { w.feed(Fatal{Now: w.now, Gen: w.s.Watch.Gen - 1, Words: "out of memory"}) }, false},
		{"health dead", three(Dead), true},
		{"health refused", three(Refused), true},
		{"health timed out", three(TimedOut), true},
		{"health dead twice", func(w *world) { w.health(Dead); w.advance(time.Second); w.health(Dead) }, false},
		{"health dead thrice at once", func(w *world) { w.health(Dead); w.health(Dead); w.health(Dead) }, false},
		{"health recovers between", func(w *world) {
			for _, h := range []Health{Dead, Dead, Healthy, Dead, Dead} {
				w.advance(time.Second)
				w.health(h)
			}
		}, false},
		{"errors", traffic(Sample{Requests: 10, Errors: 6}), true},
		{"half errors", traffic(Sample{Requests: 10, Errors: 5}), false},
		{"few requests", traffic(Sample{Requests: 9, Errors: 9}), false},
		{"preemption storm", traffic(Sample{Requests: 10, Preemptions: 25}), true},
		{"preemptions of many", traffic(Sample{Requests: 100, Preemptions: 25}), false},
	}
	for _, c := range cases {
		for _, phase := range []Phase{Probation, Confirmed} {
			t.Run(c.name+" "+phase.String(), func(t *testing.T) {
				w := onProbation(t, false)
				if phase == Confirmed {
					w.direct(confirm(at(11), 10))
				}
				c.fault(w)
				if got := w.s.Phase == Reverting; got != c.fires {
					t.Fatalf("phase %v, reason %q", w.s.Phase, w.s.Failed.Reason)
				}
				if !c.fires {
					return
				}
				if ok, _ := w.s.Serving(); ok {
					t.Error("still in rotation")
				}
				w.until(Idle)
				if w.s.Failed.Epoch != 10 || w.s.Failed.Reason == "" || w.s.Failed.Log == "" || w.engine.Epoch != 0 {
					t.Errorf("after the revert: %+v, engine on %d", w.s.Failed, w.engine.Epoch)
				}
				if got := w.direct(confirm(at(20), 10)); got != reverted {
					t.Errorf("late confirm: %v", got)
				}
				if got := w.direct(offer(at(21), 10)); got != reverted {
					t.Errorf("offered again: %v", got)
				}
			})
		}
	}
}

func TestIdleLeavesRotationAndReturns(t *testing.T) {
	w := newWorld()
	for range 3 {
		w.second()
	}
	for range 3 {
		w.advance(500 * time.Millisecond)
		w.health(Refused)
	}
	if ok, why := w.s.Serving(); ok || w.s.Phase != Idle || why == "" {
		t.Fatalf("dead engine: serving %v, %v, %q", ok, w.s.Phase, why)
	}
	for range 3 {
		w.second()
	}
	if ok, why := w.s.Serving(); !ok {
		t.Errorf("well again, but %s", why)
	}
}

func TestLease(t *testing.T) {
	w := onProbation(t, false)
	for range 5 {
		w.advance(100 * time.Second)
		if got := w.direct(lease(at(10), 10)); got != accepted {
			t.Fatalf("lease: %v", got)
		}
		w.tick()
	}
	if w.s.Phase != Probation {
		t.Fatalf("renewed, but %v", w.s.Phase)
	}
	w.crash() // the deadline is journaled
	w.advance(2*time.Minute + 29*time.Second)
	w.tick()
	if w.s.Phase != Probation {
		t.Fatalf("slot 1 did not wait: %v", w.s.Phase)
	}
	w.advance(time.Second)
	w.tick()
	if w.s.Phase != Reverting {
		t.Fatalf("lease and slot over, but %v", w.s.Phase)
	}
	if got := w.direct(lease(at(10), 10)); got != reverted {
		t.Errorf("lease of a reverted epoch: %v", got)
	}
	w.until(Idle)
}

func TestApplyBy(t *testing.T) {
	w := newWorld()
	w.direct(offer(at(10), 10))
	for w.s.Phase != Warming {
		w.advance(time.Second)
		w.tick()
		w.perform()
		w.deliver()
		w.load(0)
	}
	w.advance(2 * time.Minute)
	w.tick()
	if w.s.Phase != Reverting {
		t.Fatalf("apply_by over, but %v", w.s.Phase)
	}
	w.until(Idle)
}

func TestRevertInSlot(t *testing.T) {
	w := onProbation(t, false)
	if got := w.direct(revert(at(11), 10, 2)); got != accepted || w.s.Phase != Probation {
		t.Fatalf("%v, %v", got, w.s.Phase)
	}
	if got := w.direct(confirm(at(12), 10)); got != reverted {
		t.Errorf("confirm after the abort: %v", got)
	}
	w.advance(40 * time.Second)
	w.tick()
	if w.s.Phase != Reverting {
		t.Errorf("slot over, but %v", w.s.Phase)
	}
	w.until(Idle)
	w = onProbation(t, false)
	w.direct(drain(at(11), true))
	w.direct(revert(at(12), 10, 2))
	if w.s.Phase != Reverting {
		t.Error("out of rotation, but waits for a slot")
	}
	w.until(Idle)
	w.second()
	if ok, why := w.s.Serving(); !ok {
		t.Errorf("mitigation outlasts what it was for: %s", why)
	}
}

func TestRevertDoesNotWaitOutOfRotation(t *testing.T) {
	for name, leave := range map[string]func(w *world){
		"drained":         func(w *world) { w.direct(drain(at(12), true)) },
		"agent restarted": func(w *world) { w.crash() },
	} {
		t.Run(name, func(t *testing.T) {
			w := onProbation(t, false)
			w.direct(revert(at(11), 10, 2))
			if w.s.Phase != Probation {
				t.Fatalf("does not wait for its slot: %v", w.s.Phase)
			}
			leave(w)
			if w.s.Phase != Reverting {
				t.Errorf("out of rotation, but %v", w.s.Phase)
			}
			w.until(Idle)
			if w.s.LKG.Epoch != w.s.Running().Epoch || w.broken != nil {
				t.Errorf("runs epoch %d: %v", w.s.Running().Epoch, w.broken)
			}
		})
	}
}

func TestFence(t *testing.T) {
	w := newWorld()
	w.direct(revert(at(20), 10, 0)) // of an epoch never seen
	cases := []struct {
		name string
		d    *agentv1.Directive
		want agentv1.AckResult
	}{
		{"delayed offer of a reverted epoch", offer(at(10), 10), stale},
		{"same fence", drain(at(20), true), duplicate},
		{"no fence", drain(Fence{}, true), refused},
		{"older incarnation", drain(Fence{Incarnation: 0, Index: 99}, true), stale},
		{"wrong hash", func() *agentv1.Directive {
			d := offer(at(30), 30)
			d.GetOffer().GetBody().Settings["max_num_seqs"] = "7"
			return d
		}(), refused},
		{"wrong group", func() *agentv1.Directive { d := offer(at(30), 30); d.Group = "code"; return d }(), refused},
		{"wrong cluster", func() *agentv1.Directive { d := offer(at(30), 30); d.ClusterId = "c2"; return d }(), refused},
		{"wrong instance", func() *agentv1.Directive { d := offer(at(30), 30); d.InstanceId = "x"; return d }(), refused},
		{"promote of nothing", promote(at(30), 30), refused},
		{"confirm of nothing", confirm(at(30), 30), refused},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := w.s.Record
			if got := w.direct(c.d); got != c.want {
				t.Errorf("%v (%s), want %v", got, w.reply.Detail, c.want)
			}
			if w.s.Phase != before.Phase || w.s.Fence != before.Fence || w.s.Drained {
				t.Errorf("changed the state: %+v", w.s.Record)
			}
		})
	}
	if got := w.direct(drain(Fence{Incarnation: 2, Index: 1}, true)); got != accepted {
		t.Errorf("newer incarnation: %v", got)
	}
}

func TestRefusedInWords(t *testing.T) {
	w := newWorld()
	w.feed(Directed{Now: w.now, Directive: offer(at(10), 10), Problem: "max_num_seqs: 0 is below 1"})
	if w.reply.Result != refused || w.reply.Detail != "max_num_seqs: 0 is below 1" || w.s.Phase != Idle {
		t.Errorf("%+v, %v", w.reply, w.s.Phase)
	}
	w.full = true
	if got := w.direct(offer(at(11), 11)); got != refused || w.s.Phase != Idle || len(w.pending) != 0 {
		t.Errorf("disk full: %v, %v", got, w.s.Phase)
	}
}

func TestQuarantine(t *testing.T) {
	w := onProbation(t, false)
	w.token(TokenNaN)
	w.perform()
	w.perform()
	w.perform()
	w.deliver()
	w.deliver()
	w.engine.State = launch.CrashLoop
	w.observe()
	if ok, why := w.s.Serving(); ok || w.s.Phase != Quarantined || why == "" {
		t.Fatalf("LKG will not start: %v, %q", w.s.Phase, why)
	}
	w.crash()
	if w.s.Phase != Quarantined {
		t.Fatal("a restart of the agent lifts the quarantine")
	}
	if got := w.direct(offer(at(40), 40)); got != accepted {
		t.Fatalf("roll forward: %v", got)
	}
	w.until(Probation)
	if ok, why := w.s.Serving(); !ok {
		t.Errorf("rolled forward, but %s", why)
	}
}

func TestOperatorLiftsQuarantine(t *testing.T) {
	w := newWorld()
	w.engine.State = launch.Failed
	w.observe()
	if w.s.Phase != Quarantined {
		t.Fatalf("LKG cannot be executed: %v", w.s.Phase)
	}
	w.direct(drain(at(5), false))
	w.until(Idle)
}

func TestCrashInEachPhase(t *testing.T) {
	for _, phase := range []Phase{Accepted, Draining, Applying, Warming, Probation, Confirmed, Reverting} {
		for _, acted := range []bool{false, true} {
			for _, reboot := range []bool{false, true} {
				w := newWorld()
				for range 3 {
					w.second()
				}
				w.direct(offer(at(10), 10))
				switch phase {
				case Confirmed:
					w.until(Probation)
					w.direct(confirm(at(11), 10))
					w.second()
				case Reverting:
					w.until(Probation)
					w.token(TokenNaN)
				default:
					for range 100 {
						if w.s.Phase == phase {
							break
						}
						w.advance(500 * time.Millisecond)
						w.tick()
						if w.s.Phase == Warming || w.s.Phase == Applying && phase != Applying {
							w.perform()
							w.deliver()
							w.health(Healthy)
							w.token(TokenServed)
						}
						w.load(0)
					}
				}
				if w.s.Phase != phase {
					t.Fatalf("never came to %v: %v", phase, w.s.Phase)
				}
				for acted && len(w.pending) > 0 {
					w.perform()
				}
				if reboot {
					w.reboot()
				} else {
					w.crash()
				}
				w.settle()
				if err := w.resting(); err != nil {
					t.Errorf("%v, acted %v, reboot %v: %v", phase, acted, reboot, err)
				}
				if reboot && phase < Confirmed && w.s.Failed.Epoch != 10 {
					t.Errorf("%v: a reboot did not take the epoch back", phase)
				}
			}
		}
	}
}
