package probation_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	. "github.com/optiinfra/performance-agent/agent/probation"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// fakeLauncher starts engines in no time. Its restart takes restartTakes.
type fakeLauncher struct {
	mu           sync.Mutex
	status       launch.Status
	restartTakes time.Duration
	refuse       error // of the next restart
	log          string
	starts       []uint64
	commits      []uint64
	pids         int
}

func newLauncher() *fakeLauncher {
	base := launch.Spec{Argv: []string{"vllm"}, Fingerprint: BaseFingerprint}
	f := &fakeLauncher{restartTakes: 3 * time.Second, pids: 1}
	f.status = launch.Status{State: launch.Running, PID: 1, StartedAt: time.Now(), Current: base, Base: base, Committed: base}
	return f
}

func (f *fakeLauncher) Status(context.Context) (launch.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status, nil
}

func (f *fakeLauncher) Restart(ctx context.Context, s launch.Spec) (launch.Status, error) {
	f.mu.Lock()
	if err := f.refuse; err != nil {
		f.refuse = nil
		f.mu.Unlock()
		return launch.Status{}, err
	}
	f.status.State = launch.Stopping
	f.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(f.restartTakes):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pids++
	f.starts = append(f.starts, s.Epoch)
	f.status.State, f.status.Current, f.status.PID, f.status.StartedAt, f.status.UnrequestedExits = launch.Running, s, f.pids, time.Now(), 0
	f.status.LogOffset = uint64(len(f.log))
	return f.status, nil
}

func (f *fakeLauncher) Stop(context.Context, time.Duration) (launch.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.State, f.status.PID = launch.Stopped, 0
	return f.status, nil
}

func (f *fakeLauncher) Commit(_ context.Context, s launch.Spec) (launch.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Committed = s
	f.commits = append(f.commits, s.Epoch)
	return f.status, nil
}

func (f *fakeLauncher) Log(_ context.Context, since uint64) (launch.Log, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return launch.Log{Offset: since, Next: uint64(len(f.log)), Text: f.log[since:]}, nil
}

func (f *fakeLauncher) write(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log += line
}

func (f *fakeLauncher) started() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]uint64{}, f.starts...)
}

// fakes answer as told.
type fakes struct {
	mu       sync.Mutex
	health   Health
	token    Token
	inFlight int
	traffic  Sample
	hot      bool
	hotErr   error
	problem  []string
	applies  int
	calls    int
}

func (f *fakes) set(change func(*fakes)) { f.mu.Lock(); defer f.mu.Unlock(); change(f) }

func (f *fakes) Health(context.Context) (Health, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.health, "asked"
}

func (f *fakes) ServeToken(context.Context) (Token, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.token, ""
}

func (f *fakes) InFlight(context.Context) (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inFlight, true
}

func (f *fakes) Sample(span time.Duration) (Sample, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.traffic
	s.Span = span
	return s, true
}

func (f *fakes) Validate(context.Context, Config) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	return f.problem, nil
}

func (f *fakes) Command(_ context.Context, c Config) (launch.Spec, error) {
	return launch.Spec{Argv: []string{"vllm", "--max-num-seqs", c.Settings["max_num_seqs"]}}, nil
}

func (f *fakes) Hot(context.Context, Config, Config) bool { return f.hot }

func (f *fakes) Apply(context.Context, Config, Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applies++
	if f.applies > 1 {
		return f.hotErr
	}
	return nil
}

func (f *fakes) Fatal(log string) string {
	if strings.Contains(log, "OutOfMemory") {
		return "out of GPU memory"
	}
	return ""
}

func (f *fakes) Explain(log string) string { return f.Fatal(log) }

// memory is a journal that can be told to fail.
type memory struct {
	mu   sync.Mutex
	raw  []byte
	fail error
}

func (j *memory) Load() (Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.raw == nil {
		return Record{}, ErrNoRecord
	}
	return Decode(j.raw)
}

func (j *memory) Append(r Record, _ bool) (err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return j.fail
	}
	j.raw, err = Encode(r)
	return err
}

func (j *memory) failWith(err error) { j.mu.Lock(); defer j.mu.Unlock(); j.fail = err }

// bench is a running machine in a bubble of virtual time.
type bench struct {
	*Machine
	t        *testing.T
	launcher *fakeLauncher
	fakes    *fakes
	journal  *memory
	stop     func()
	reports  []*agentv1.StateReport
	mu       sync.Mutex
}

func start(t *testing.T, b *bench) *bench {
	t.Helper()
	if b == nil {
		b = &bench{launcher: newLauncher(), fakes: &fakes{}, journal: &memory{}}
	}
	b.t = t
	began := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	b.Machine = New(Settings{
		Instance: instance, Group: group, Limits: Limits{RestartEstimate: 20 * time.Second},
		Allow: func(c Config) string {
			if c.Settings["max_num_seqs"] == "66" {
				return "max_num_seqs may not be 66 on this machine"
			}
			return ""
		},
		Notify: func(r *agentv1.StateReport) { b.mu.Lock(); b.reports = append(b.reports, r); b.mu.Unlock() },
		Clock:  func() Instant { return Instant{Boot: time.Since(began), BootID: "boot", Wall: time.Now()} },
	}, Dependencies{
		Journal: b.journal, Launcher: b.launcher, Adapter: b.fakes, Prober: b.fakes, Traffic: b.fakes, Log: b.fakes,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err := b.Open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m := b.Machine
	go func() { done <- m.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return b
}

// await waits until the machine is in the phase.
func (b *bench) await(p Phase, limit time.Duration) {
	b.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if b.Snapshot().Phase == p {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	b.t.Fatalf("not %v within %v: %v, %q, failed %q", p, limit, b.Snapshot().Phase, b.Snapshot().Watch.Why, b.State().GetFailedReason())
}

func (b *bench) awaitServing(want bool, limit time.Duration) {
	b.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		if got, _ := b.Serving(); got == want {
			return
		}
	}
	_, why := b.Serving()
	b.t.Fatalf("serving not %v within %v: %s", want, limit, why)
}

func (b *bench) order(d *agentv1.Directive, want agentv1.AckResult) {
	b.t.Helper()
	if ack := b.Handle(b.t.Context(), d); ack.GetResult() != want {
		b.t.Fatalf("%v: %v, %s", d.GetAction(), ack.GetResult(), ack.GetDetail())
	}
}

func TestMachinePromotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.awaitServing(true, 5*time.Second)
		b.fakes.set(func(f *fakes) { f.inFlight = 2 })
		b.order(offer(at(10), 10), accepted)
		b.awaitServing(false, time.Second)
		<-time.After(10 * time.Second)
		if b.Snapshot().Phase != Draining || len(b.launcher.started()) != 0 {
			t.Fatal("did not wait for requests in flight")
		}
		b.fakes.set(func(f *fakes) { f.inFlight = 0 })
		b.await(Probation, 10*time.Second)
		b.awaitServing(true, time.Second)
		if len(b.launcher.commits) != 0 {
			t.Error("an epoch on probation became a restart source")
		}
		b.order(confirm(at(11), 10), accepted)
		<-time.After(time.Hour)
		b.order(promote(at(12), 10), accepted)
		<-time.After(time.Second)
		if s := b.State(); s.GetLkgEpoch() != 10 || s.GetRunningEpoch() != 10 || !s.GetServing() || s.GetPhase() != Idle {
			t.Errorf("%v", s)
		}
		if got := b.launcher.started(); len(got) != 1 {
			t.Errorf("starts: %v", got)
		}
		b.stop()
		for i, r := range b.reports {
			if i > 0 && r.GetSequence() <= b.reports[i-1].GetSequence() {
				t.Errorf("report sequence fell from %d to %d", b.reports[i-1].GetSequence(), r.GetSequence())
			}
		}
	})
}

func TestMachineRevertsAlone(t *testing.T) {
	cases := []struct {
		name   string
		fault  func(*bench)
		within time.Duration
		reason string
	}{
		{"lease", func(*bench) {}, 3 * time.Minute, "lease"},
		{"exit", func(b *bench) {
			b.launcher.mu.Lock()
			b.launcher.status.State, b.launcher.status.UnrequestedExits, b.launcher.status.PID = launch.Exited, 1, 0
			b.launcher.mu.Unlock()
		}, 2 * time.Second, "ended"},
		{"dead", func(b *bench) { b.fakes.set(func(f *fakes) { f.health = Dead }) }, 2 * time.Second, "health"},
		{"log", func(b *bench) { b.launcher.write("torch.OutOfMemoryError\n") }, 2 * time.Second, "memory"},
		{"errors", func(b *bench) { b.fakes.set(func(f *fakes) { f.traffic = Sample{Requests: 20, Errors: 20} }) }, 3 * time.Second, "failed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, nil)
				b.awaitServing(true, 5*time.Second)
				b.launcher.write("OutOfMemory of the engine before\n")
				<-time.After(5 * time.Second)
				b.awaitServing(true, 5*time.Second)
				b.order(offer(at(10), 10), accepted)
				b.await(Probation, 20*time.Second)
				b.launcher.write("last words\n")
				c.fault(b)
				b.await(Reverting, c.within)
				b.awaitServing(false, time.Second)
				b.fakes.set(func(f *fakes) { f.health, f.traffic = Healthy, Sample{} })
				b.await(Idle, 20*time.Second)
				s := b.State()
				if !strings.Contains(s.GetFailedReason(), c.reason) || !strings.Contains(s.GetFailedLog(), "last words") || strings.Contains(s.GetFailedLog(), "engine before") {
					t.Errorf("reason %q, log %q", s.GetFailedReason(), s.GetFailedLog())
				}
				if got := b.launcher.started(); len(got) != 2 || got[1] != 0 {
					t.Errorf("starts: %v", got)
				}
				b.order(confirm(at(11), 10), reverted)
				b.stop()
			})
		})
	}
}

func TestMachineAppliesHot(t *testing.T) {
	for _, hotErr := range []error{nil, errors.New("the engine kept the old value")} {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, &bench{launcher: newLauncher(), fakes: &fakes{hot: true, hotErr: hotErr}, journal: &memory{}})
			b.awaitServing(true, 5*time.Second)
			b.order(offer(at(10), 10), accepted)
			b.await(Probation, 5*time.Second)
			b.order(revert(at(11), 10, 0), accepted)
			b.await(Idle, 20*time.Second)
			restarts := len(b.launcher.started())
			if hotErr == nil && restarts != 0 || hotErr != nil && restarts != 1 {
				t.Errorf("hot error %v: %d restarts", hotErr, restarts)
			}
			b.stop()
		})
	}
}

func TestMachineRefusesInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.awaitServing(true, 5*time.Second)
		b.fakes.set(func(f *fakes) { f.problem = []string{"max_nums: there is no such knob"} })
		ack := b.Handle(t.Context(), offer(at(10), 10))
		if ack.GetResult() != refused || !strings.Contains(ack.GetDetail(), "no such knob") {
			t.Errorf("unknown knob: %v", ack)
		}
		b.fakes.set(func(f *fakes) { f.problem = nil })
		if ack := b.Handle(t.Context(), offer(at(66), 66)); ack.GetResult() != refused || !strings.Contains(ack.GetDetail(), "on this machine") {
			t.Errorf("allow-list: %v", ack)
		}
		b.journal.failWith(errors.New("the disk is full"))
		if ack := b.Handle(t.Context(), offer(at(11), 11)); ack.GetResult() != refused || !strings.Contains(ack.GetDetail(), "full") || b.Snapshot().Phase != Idle {
			t.Errorf("disk full: %v", ack)
		}
		b.journal.failWith(nil)
		b.launcher.refuse = launch.ErrCommand
		b.order(offer(at(12), 12), accepted)
		b.await(Reverting, 20*time.Second)
		b.await(Idle, 20*time.Second)
		if s := b.State(); s.GetFailedEpoch() != 12 || !strings.Contains(s.GetFailedReason(), "cannot be executed") || len(b.launcher.started()) != 0 {
			t.Errorf("command not found: %v, starts %v", s, b.launcher.started())
		}
		calls := b.fakes.calls
		b.order(offer(at(12), 12), duplicate)
		if b.fakes.calls != calls {
			t.Error("a duplicate offer cost the adapter a call")
		}
		b.stop()
	})
}

func TestMachineTakesUpItsJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.awaitServing(true, 5*time.Second)
		b.order(offer(at(10), 10), accepted)
		b.await(Probation, 20*time.Second)
		sequence := b.State().GetSequence()
		b.stop()
		<-time.After(time.Minute)
		b = start(t, b)
		b.awaitServing(true, 5*time.Second)
		if s := b.State(); s.GetPhase() != Probation || s.GetSequence() <= sequence || len(b.launcher.started()) != 1 {
			t.Errorf("%v after %d, starts %v", s, sequence, b.launcher.started())
		}
		b.order(lease(at(10), 10), accepted)
		b.stop()
		<-time.After(10 * time.Minute)
		b = start(t, b)
		b.await(Idle, 30*time.Second)
		if got := b.launcher.started(); len(got) != 2 || got[1] != 0 {
			t.Errorf("starts: %v", got)
		}
		b.stop()
		other := New(Settings{Instance: "other", Group: group, Clock: func() Instant { return Instant{} }}, Dependencies{Journal: b.journal, Logger: slog.New(slog.DiscardHandler)})
		if err := other.Open(); !errors.Is(err, ErrOtherInstance) {
			t.Errorf("somebody else's journal: %v", err)
		}
	})
}

func TestMachineEndsWhileTheEngineRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.awaitServing(true, 5*time.Second)
		b.order(offer(at(10), 10), accepted)
		b.await(Applying, 20*time.Second)
		b.stop() // the launcher carries the restart out all the same
		if b.Snapshot().Phase != Applying {
			t.Fatalf("the end of the agent was taken for a failure: %v", b.State())
		}
		b = start(t, b)
		b.await(Probation, 10*time.Second)
		if got := b.launcher.started(); len(got) != 1 {
			t.Errorf("starts: %v", got)
		}
		b.stop()
	})
}

func TestMachineWaitsForTheLauncher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Settings{Instance: instance, Group: group, Clock: func() Instant { return Instant{} }},
			Dependencies{Journal: &memory{}, Logger: slog.New(slog.DiscardHandler)})
		if err := m.Open(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ack := m.Handle(ctx, offer(at(10), 10)); ack.GetResult() != refused || ack.GetDetail() == "" {
			t.Errorf("%v", ack)
		}
		if ok, why := m.Serving(); ok || why == "" {
			t.Errorf("in rotation before anything is known: %q", why)
		}
	})
}

func TestMachineOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.awaitServing(true, 5*time.Second)
		b.order(offer(at(10), 10), accepted)
		b.await(Probation, 20*time.Second)
		b.journal.failWith(errors.New("the disk is full"))
		b.order(lease(at(10), 10), refused)
		b.fakes.set(func(f *fakes) { f.token = TokenNaN })
		b.awaitServing(false, 10*time.Second)
		if _, why := b.Serving(); !strings.Contains(why, "full") || len(b.launcher.started()) != 1 {
			t.Errorf("acted without a journal: %q, starts %v", why, b.launcher.started())
		}
		b.journal.failWith(nil)
		b.await(Reverting, 10*time.Second)
		b.fakes.set(func(f *fakes) { f.token = TokenServed })
		b.await(Idle, 20*time.Second)
		b.awaitServing(true, 5*time.Second)
		b.stop()
	})
}
