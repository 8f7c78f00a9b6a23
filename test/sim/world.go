package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// epoch0 is the virtual time at which a run begins, in Unix milliseconds.
const epoch0 = 1_700_000_000_000

// Failure is a broken invariant.
type Failure struct {
	Seed      uint64
	Invariant string // "I1" … "I15"
	Message   string
	History   []string // the last events, oldest first
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d: %s: %s\n%s\nrun it again with: go test ./test/sim -run InvariantsHold -seed %d",
		f.Seed, f.Invariant, f.Message, strings.Join(f.History, "\n"), f.Seed)
}

// Stats tell what a run contained, so that a test can see that runs are not empty.
type Stats struct {
	Entries, Terms, Waves, Succeeded, RolledBack, Cancelled, Crashes, Reverts, Guards int
}

// event is something that happens at a time.
type event struct {
	at  int64
	seq uint64 // breaks ties in the order of scheduling
	do  func()
}

// world is one run.
type world struct {
	seed   uint64
	rng    *rand.Rand
	now    int64 // Unix milliseconds
	queue  []event
	seq    uint64
	calm   bool  // the faults have stopped
	calmAt int64 // when they do
	fault  float64

	machine *fsm.Machine
	rec     records // of the machine, after the last entry
	log     replicated
	lead    *leader
	groups  []*group
	agents  []*agent
	byID    map[string]*agent
	check   checker
	stats   Stats

	history [historySize]note
	noted   int
	failure *Failure
}

// group is what the world knows of a group and the log does not.
type group struct {
	name     string
	policy   *commandv1.Policy
	agents   []*agent
	load     float64 // tokens per second, of all its users
	deaf     bool    // telemetry does not arrive
	rollouts int
}

const historySize = 64

// note is one line of history, put into words only when it is printed.
type note struct {
	at     int64
	format string
	args   []any
}

// Run carries out one run and returns the first broken invariant, nil when none broke.
func Run(seed uint64) (Stats, *Failure) {
	w := newWorld(seed)
	w.run()
	return w.stats, w.failure
}

func (w *world) run() {
	for w.failure == nil && len(w.queue) > 0 && !w.finished() {
		e := w.pop()
		w.now = e.at
		e.do()
	}
	if w.failure == nil {
		w.checkEnd()
	}
}

func newWorld(seed uint64) *world {
	w := &world{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x51)), now: epoch0, machine: fsm.New(),
		byID: map[string]*agent{}, check: newChecker(),
	}
	w.fault = []float64{0, 0.3, 1, 2}[w.rng.IntN(4)]
	w.calmAt = w.now + int64(60_000+w.rng.IntN(120_000))
	w.log.term = 1
	w.lead = newLeader(1, 0)
	w.begin(commandv1.CommandType_COMMAND_TYPE_INIT_CLUSTER, &commandv1.InitCluster{ClusterId: clusterID})
	w.populate()
	w.after(500, w.leaderTurn)
	w.after(100, w.reportTurn)
	w.scheduleFaults()
	w.scheduleOperator()
	return w
}

const clusterID = "c-1"

// populate makes one or two groups of together at most ten agents.
func (w *world) populate() {
	names := []string{"chat", "code"}[:1+w.rng.IntN(4)/3]
	for _, name := range names {
		n := []int{1, 2, 2, 3, 3, 4, 4, 5, 8}[w.rng.IntN(9)]
		if len(names) > 1 {
			n = min(n, 4)
		}
		g := &group{name: name, policy: w.drawPolicy(n)}
		g.load = float64(n) * nominal * (0.2 + 0.4*w.rng.Float64())
		w.groups = append(w.groups, g)
		for k := range n {
			a := newAgent(w, g, fmt.Sprintf("%s-%02d", name, k))
			w.agents, g.agents, w.byID[a.id] = append(w.agents, a), append(g.agents, a), a
			a.boot()
			w.attach(a)
			w.after(int64(w.rng.IntN(500)), a.tick)
		}
		w.begin(commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, &commandv1.PutGroup{Name: name, Engine: "vllm", Policy: g.policy})
	}
}

func (w *world) drawPolicy(n int) *commandv1.Policy {
	outage := n == 1
	p := &commandv1.Policy{
		MaxUnavailable: uint32(1 + w.rng.IntN(max(1, n/2))), Reserve: 0.1,
		Steps:        [][]uint32{{100}, {50, 100}, {25, 50, 100}, {5, 25, 50, 100}}[w.rng.IntN(4)],
		ObserveMinMs: 5_000, ObserveMaxMs: 20_000, BakeMs: 8_000, MinRequests: 10,
		ProbationMs: 15_000, LeaseEveryMs: 4_000, WaveDeadlineMs: 60_000, QuarantineMs: 600_000,
		AllowOutage: &outage,
	}
	if w.rng.IntN(4) == 0 && n > 2 {
		p.Floor = uint32(n - int(p.MaxUnavailable))
	}
	return p
}

// after schedules do in ms milliseconds of virtual time.
func (w *world) after(ms int64, do func()) {
	w.seq++
	w.push(event{at: w.now + max(ms, 0), seq: w.seq, do: do})
}

func before(a, b event) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

func (w *world) push(e event) {
	w.queue = append(w.queue, e)
	for k := len(w.queue) - 1; k > 0; {
		up := (k - 1) / 2
		if !before(w.queue[k], w.queue[up]) {
			return
		}
		w.queue[k], w.queue[up] = w.queue[up], w.queue[k]
		k = up
	}
}

func (w *world) pop() event {
	q := w.queue
	first, last := q[0], len(q)-1
	q[0], q[last] = q[last], event{}
	w.queue = q[:last]
	for k := 0; ; {
		down := 2*k + 1
		if down >= last {
			return first
		}
		if down+1 < last && before(q[down+1], q[down]) {
			down++
		}
		if !before(q[down], q[k]) {
			return first
		}
		q[k], q[down] = q[down], q[k]
		k = down
	}
}

// chance is true with a probability that grows with the run's rate of faults, and never once they
// have stopped.
func (w *world) chance(p float64) bool { return !w.calm && w.rng.Float64() < p*w.fault }

func (w *world) between(low, high int64) int64 { return low + w.rng.Int64N(high-low+1) }

// say adds a line to the history. Arguments must not change afterwards.
func (w *world) say(format string, args ...any) {
	w.history[w.noted%historySize] = note{at: w.now, format: format, args: args}
	w.noted++
}

// broke records the first broken invariant.
func (w *world) broke(invariant, format string, args ...any) {
	if w.failure != nil {
		return
	}
	f := &Failure{Seed: w.seed, Invariant: invariant, Message: fmt.Sprintf(format, args...)}
	for k := max(0, w.noted-historySize); k < w.noted; k++ {
		n := w.history[k%historySize]
		f.History = append(f.History, fmt.Sprintf("  %8.3f s  "+n.format, append([]any{float64(n.at-epoch0) / 1000}, n.args...)...))
	}
	for _, a := range w.agents {
		i := w.rec.instances[a.id]
		asked := i.GetAssignment()
		f.History = append(f.History, fmt.Sprintf("  %s: %s, epoch %d, last-known-good %d, failed %d, fence %d, drained %v; the log says: %s, reachable %v, serving %v, drain %v, %s %s epoch %d fence %d %s",
			a.id, phase(a.s.Phase), a.s.Running().Epoch, a.s.LKG.Epoch, a.s.Failed.Epoch, a.s.Fence.Index, a.s.Drained, phase(i.GetState().GetPhase()),
			i.GetReachable(), i.GetState().GetServing(), i.GetOperatorDrain(), asked.GetKind(), asked.GetRolloutId(), asked.GetEpoch(), asked.GetFenceIndex(), asked.GetRefused()))
	}
	w.failure = f
}

func duration(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
