package probation_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/optiinfra/performance-agent/agent/launch"
	. "github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// walk drives a world through steps that choose picks, crashes included, and then lets it settle.
// It returns the first broken invariant.
func walk(steps int, choose func(n int) int) error {
	w := newWorld()
	next := uint64(100)
	newest := func() uint64 { return w.s.Newest.Index }
	fresh := func() Fence { next++; return at(next) }
	for range steps {
		switch choose(24) {
		case 0, 1, 2, 3:
			w.second()
		case 4:
			w.advance(time.Duration(choose(40)) * time.Second)
			w.tick()
		case 5:
			f := fresh()
			w.feed(Directed{Now: w.now, Directive: offer(f, f.Index), Hot: choose(4) == 0})
		case 6:
			w.feed(Directed{Now: w.now, Directive: offer(at(100+uint64(choose(int(next-98)))), newest()), Hot: choose(4) == 0})
		case 7:
			w.direct(confirm(fresh(), newest()))
		case 8:
			w.direct(promote(fresh(), newest()))
		case 9:
			w.direct(revert(fresh(), newest(), uint32(choose(2))))
		case 10:
			w.direct(lease(w.s.OfferFence, newest()))
		case 11:
			w.direct(drain(fresh(), choose(2) == 0))
		case 12:
			stale := at(100 + uint64(choose(int(next-98))))
			w.direct([]*agentv1.Directive{confirm(stale, newest()), promote(stale, newest()), revert(stale, newest(), 0), drain(stale, true)}[choose(4)])
		case 13:
			d := offer(fresh(), next)
			[]func(){func() { d.ClusterId = "c2" }, func() { d.Group = "code" }, func() { d.InstanceId = "agent-2/engine" }}[choose(3)]()
			if w.s.ClusterID != "" || d.ClusterId == cluster {
				w.direct(d)
			}
		case 14, 15:
			w.tick()
		case 16, 17:
			w.perform()
		case 18:
			w.deliver()
		case 19, 20:
			w.crash()
		case 21:
			[]func(){
				func() { w.engine.Exits++; w.engine.State = launch.Exited; w.observe() },
				func() { w.spawn(w.committed); w.observe() },
				w.reboot,
				func() { w.full = !w.full },
			}[choose(4)]()
		case 22:
			w.advance(500 * time.Millisecond)
			w.health(Health(choose(4)))
		case 23:
			[]func(){
				func() { w.token(Token(choose(4))) },
				func() { w.load(choose(3)) },
				func() { w.feed(Fatal{Now: w.now, Gen: w.s.Watch.Gen, Words: "out of memory"}) },
				func() {
					w.feed(Trafficked{Now: w.now, Gen: w.s.Watch.Gen, Sample: Sample{Requests: 20, Errors: 15}})
				},
			}[choose(4)]()
		}
		if w.broken != nil {
			return w.broken
		}
	}
	w.settle()
	return w.resting()
}

// resting says what is wrong with the end of a walk: with nobody renewing or confirming, an
// instance rests on its last-known-good configuration or on a confirmed one.
func (w *world) resting() error {
	want := w.s.LKG
	switch {
	case w.broken != nil:
		return w.broken
	case w.s.Phase == Confirmed:
		want = w.s.Current
	case w.s.Phase != Idle:
		return fmt.Errorf("rests %v: %s", w.s.Phase, w.s.Watch.Why)
	}
	serving, why := w.s.Serving()
	if !serving && !w.s.Drained {
		return fmt.Errorf("rests out of rotation: %s", why)
	}
	hot := w.s.HotProcess.PID == w.engine.PID && w.s.HotEpoch == want.Epoch
	if w.engine.Epoch != want.Epoch && !hot {
		return fmt.Errorf("rests with the engine on epoch %d instead of %d", w.engine.Epoch, want.Epoch)
	}
	if w.committed.Epoch != want.Epoch {
		return fmt.Errorf("rests with epoch %d as the restart source instead of %d", w.committed.Epoch, want.Epoch)
	}
	return nil
}

func TestInvariantsOnRandomWalks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		err := walk(rapid.IntRange(1, 120).Draw(rt, "steps"), func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "choice") })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func seeded(seed uint64) func(n int) int {
	return rand.New(rand.NewPCG(seed, 1)).IntN
}

func TestInvariantsOnSeeds(t *testing.T) {
	for seed := range uint64(500) {
		if err := walk(150, seeded(seed)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestWalksCatchPlantedBugs shows that the checks above can fail. It needs the tag "mutants".
func TestWalksCatchPlantedBugs(t *testing.T) {
	if !mutant.Enabled {
		t.Skip("planted bugs are only in builds with -tags mutants")
	}
	for _, bug := range []mutant.Name{MutantI4, MutantI6, MutantI8, MutantI8Disk, MutantI9, MutantI14} {
		t.Run(string(bug), func(t *testing.T) {
			defer mutant.Plant(bug)()
			for seed := range uint64(1500) {
				if err := walk(150, seeded(seed)); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not caught")
		})
	}
}
