package probation

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
)

// logTailBytes of the engine's output go into the journal with a failure.
const logTailBytes = 4 << 10

// hands carry out actions. Those on the engine go one after the other, and a newer one ends the one
// before; the others run beside them.
type hands struct {
	m      *Machine
	cancel context.CancelFunc // of the newest engine action
	done   chan struct{}      // closed when it has ended
}

// begin starts actions, in order.
func (h *hands) begin(ctx context.Context, acts []Action) {
	m := h.m
	for _, a := range acts {
		switch a := a.(type) {
		case Start:
			h.engine(ctx, a.Restore, func(ctx context.Context) Done { return m.start(ctx, a) })
		case Apply:
			h.engine(ctx, a.Restore, func(ctx context.Context) Done { return m.applyHot(ctx, a) })
		case Commit:
			m.work.Go(func() { m.step(m.commit(ctx, a.Config)) })
		case FetchLog:
			m.work.Go(func() { m.step(m.fetchLog(ctx, a.Epoch)) })
		}
	}
}

func (h *hands) engine(ctx context.Context, restore bool, do func(context.Context) Done) {
	if h.cancel != nil {
		h.cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	before, done := h.done, make(chan struct{})
	h.cancel, h.done = cancel, done
	phase := Applying
	if restore {
		phase = Reverting
	}
	h.m.work.Go(func() {
		defer close(done)
		defer cancel()
		if before != nil {
			<-before
		}
		ev := do(ctx)
		if ctx.Err() != nil {
			return // overtaken, or the agent ends: its next start asks the launcher what came of it
		}
		crashPoint(phase, true)
		for {
			if _, ok := h.m.step(ev); ok || !pause(ctx, time.Second) {
				return // a full disk must not lose the news
			}
		}
	})
}

// actsOnEngine reports whether an action changes the engine.
func actsOnEngine(acts []Action) bool {
	for _, a := range acts {
		switch a.(type) {
		case Start, Apply:
			return true
		}
	}
	return false
}

// spec is the command line of a configuration; epoch 0 is the operator's own. What the launcher
// knows is taken from there, so that the way back does not need the adapter.
func (m *Machine) spec(ctx context.Context, c Config) (launch.Spec, error) {
	status, err := m.dep.Launcher.Status(ctx)
	if err != nil {
		return launch.Spec{}, fmt.Errorf("ask the launcher for its command lines: %w", err)
	}
	for _, known := range []launch.Spec{status.Base, status.Committed, status.Current} {
		if known.Epoch == c.Epoch && orElse(known.Fingerprint, BaseFingerprint) == c.Fingerprint() && len(known.Argv) > 0 {
			return known, nil
		}
	}
	if c.Epoch == 0 {
		return status.Base, nil
	}
	spec, err := m.dep.Adapter.Command(ctx, c)
	if err != nil {
		return launch.Spec{}, fmt.Errorf("build the command line of epoch %d: %w", c.Epoch, err)
	}
	spec.Epoch, spec.Fingerprint = c.Epoch, c.Fingerprint()
	return spec, nil
}

func (m *Machine) start(ctx context.Context, a Start) Done {
	spec, err := m.spec(ctx, a.Config)
	if err == nil && a.Force {
		_, err = m.dep.Launcher.Stop(ctx, launch.OwnGrace)
	}
	if err == nil {
		_, err = m.dep.Launcher.Restart(ctx, spec)
	}
	engine, settleErr := m.settled(ctx, a.Config, err == nil)
	if err == nil {
		err = settleErr
	}
	return Done{Now: m.cfg.Clock(), Gen: a.Gen, Engine: engine, Err: errText(err)}
}

// settled returns the launcher's status once the restart shows in it, so that the engine of before
// is not taken for the new one.
func (m *Machine) settled(ctx context.Context, c Config, wanted bool) (Engine, error) {
	for {
		status, err := m.dep.Launcher.Status(ctx)
		e := EngineOf(status)
		there := e.Epoch == c.Epoch && orElse(e.Fingerprint, BaseFingerprint) == c.Fingerprint() && e.State != launch.Stopping
		switch {
		case err == nil && !wanted:
			return e, nil
		case err == nil && there && broken(e) != "":
			return e, fmt.Errorf("%s", broken(e))
		case err == nil && there:
			return e, nil
		case !wanted:
			return Engine{}, err
		}
		if !pause(ctx, 100*time.Millisecond) {
			return e, context.Cause(ctx)
		}
	}
}

func (m *Machine) applyHot(ctx context.Context, a Apply) Done {
	err := m.dep.Adapter.Apply(ctx, a.From, a.To)
	engine, statusErr := m.settled(ctx, Config{}, false)
	if statusErr != nil {
		engine = m.view.Load().state.Watch.Engine
	}
	return Done{Now: m.cfg.Clock(), Gen: a.Gen, Engine: engine, Err: errText(err)}
}

func (m *Machine) commit(ctx context.Context, c Config) Event {
	spec, err := m.spec(ctx, c)
	if err == nil {
		_, err = m.dep.Launcher.Commit(ctx, spec)
	}
	if err != nil {
		m.log.Warn("the launcher did not take the configuration to restart with", "epoch", c.Epoch, "error", err)
	}
	return Committed{Now: m.cfg.Clock(), Config: c, Err: errText(err)}
}

// fetchLog reads the last lines of the engine that failed.
func (m *Machine) fetchLog(ctx context.Context, epoch uint64) Event {
	var since uint64
	if status, err := m.dep.Launcher.Status(ctx); err == nil && status.Current.Epoch == epoch {
		since = status.LogOffset
	}
	log, err := m.dep.Launcher.Log(ctx, since)
	if err != nil {
		m.log.Warn("the engine's last lines could not be read", "error", err)
	}
	ev := Logged{Epoch: epoch, Tail: tail(log.Text)}
	if m.dep.Log != nil {
		ev.Words = m.dep.Log.Explain(log.Text)
	}
	ev.Now = m.cfg.Clock()
	return ev
}

// tail is the end of a log, from the beginning of a line where there is one.
func tail(log string) string {
	if len(log) <= logTailBytes {
		return text(log)
	}
	cut := log[len(log)-logTailBytes:]
	if _, rest, ok := strings.Cut(cut, "\n"); ok && rest != "" {
		cut = rest
	}
	return text(cut)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func joinWords(words []string) string { return strings.Join(words, "; ") }
