package probation

import (
	"context"
	"strings"
	"sync/atomic"
	"time"
)

// Paces of looking.
const (
	quick       = 500 * time.Millisecond // health while something is at stake
	calm        = time.Second            // health of an engine that is well and left alone
	statusEvery = 500 * time.Millisecond
	loadEvery   = 250 * time.Millisecond // while draining
	tokenEvery  = 5 * time.Second        // while an epoch is tried
	guardEvery  = time.Second            // traffic and log
	trafficSpan = 10 * time.Second
)

// eyes look at the engine, each at its own pace and never twice at a time.
type eyes struct {
	m    *Machine
	list []*eye
}

// eye is one kind of look. every says how often in this state; zero: not now.
type eye struct {
	every func(State) time.Duration
	look  func(context.Context, State) Event // nil: nothing to say
	last  time.Duration
	gen   uint64
	out   atomic.Bool
}

func newEyes(m *Machine) *eyes {
	list := []*eye{
		{every: func(State) time.Duration { return statusEvery }, look: m.lookStatus},
		{every: healthPace, look: m.lookHealth},
		{every: tokenPace, look: m.lookToken},
		{every: loadPace, look: m.lookLoad},
	}
	if m.dep.Traffic != nil {
		list = append(list, &eye{every: guardPace, look: m.lookTraffic})
	}
	if m.dep.Log != nil {
		list = append(list, &eye{every: guardPace, look: m.lookLog()})
	}
	return &eyes{m: m, list: list}
}

// look starts what is due. A new generation of the engine is looked at at once.
func (e *eyes) look(ctx context.Context) {
	s, now := e.m.view.Load().state, e.m.cfg.Clock().Boot
	for _, one := range e.list {
		every := one.every(s)
		if every == 0 || one.gen == s.Watch.Gen && now-one.last < every || !one.out.CompareAndSwap(false, true) {
			continue
		}
		one.last, one.gen = now, s.Watch.Gen
		e.m.work.Go(func() {
			defer one.out.Store(false)
			if ev := one.look(ctx, s); ev != nil && ctx.Err() == nil {
				e.m.step(ev)
			}
		})
	}
}

func healthPace(s State) time.Duration {
	switch {
	case s.Watch.Busy:
		return 0
	case s.trying() && s.Phase != Confirmed, !s.Watch.Well, s.Watch.Bad > 0:
		return quick
	}
	return calm
}

// tokenPace: until one was served, and through probation. It waits for health, so that an engine
// that is still loading is not asked.
func tokenPace(s State) time.Duration {
	switch {
	case s.Watch.Busy:
		return 0
	case !s.Watch.Well && !s.Watch.Token && s.Watch.Healthy > 0:
		return quick
	case s.Watch.Well && s.trying():
		return tokenEvery
	}
	return 0
}

func loadPace(s State) time.Duration {
	if s.Phase == Draining || s.Phase == Reverting && s.Step == StepDrain {
		return loadEvery
	}
	return 0
}

func guardPace(s State) time.Duration {
	if s.Watch.Busy {
		return 0
	}
	return guardEvery
}

func (m *Machine) lookStatus(ctx context.Context, s State) Event {
	status, err := m.dep.Launcher.Status(ctx)
	if err != nil {
		return nil
	}
	return Observed{Now: m.cfg.Clock(), Gen: s.Watch.Gen, Engine: EngineOf(status)}
}

func (m *Machine) lookHealth(ctx context.Context, s State) Event {
	health, detail := m.dep.Prober.Health(ctx)
	return Probed{Now: m.cfg.Clock(), Gen: s.Watch.Gen, Health: health, Detail: detail}
}

func (m *Machine) lookToken(ctx context.Context, s State) Event {
	token, detail := m.dep.Prober.ServeToken(ctx)
	return Tokened{Now: m.cfg.Clock(), Gen: s.Watch.Gen, Token: token, Detail: detail}
}

func (m *Machine) lookLoad(ctx context.Context, s State) Event {
	n, known := m.dep.Prober.InFlight(ctx)
	if !known {
		return nil
	}
	return Loaded{Now: m.cfg.Clock(), Gen: s.Watch.Gen, InFlight: n}
}

// lookTraffic takes whole seconds since the instance became well, ten at most.
func (m *Machine) lookTraffic(_ context.Context, s State) Event {
	now := m.cfg.Clock()
	span := min(trafficSpan, (now.Boot - s.Watch.WellSince).Truncate(time.Second))
	if !s.Watch.Well || !s.trying() || span < time.Second {
		return nil
	}
	sample, known := m.dep.Traffic.Sample(span)
	if !known {
		return nil
	}
	return Trafficked{Now: now, Gen: s.Watch.Gen, Sample: sample}
}

// lookLog reads on where it stopped, and from the beginning of its output for a new engine: the
// last words of the one before are not held against it.
func (m *Machine) lookLog() func(context.Context, State) Event {
	var gen, next uint64
	return func(ctx context.Context, s State) Event {
		if gen != s.Watch.Gen {
			status, err := m.dep.Launcher.Status(ctx)
			if err != nil {
				return nil
			}
			gen, next = s.Watch.Gen, status.LogOffset
		}
		log, err := m.dep.Launcher.Log(ctx, next)
		if err != nil {
			return nil
		}
		whole := log.Text[:strings.LastIndexByte(log.Text, '\n')+1]
		next = log.Next - uint64(len(log.Text)-len(whole)) // the last line may be half written
		words := m.dep.Log.Fatal(whole)
		if words == "" {
			return nil
		}
		return Fatal{Now: m.cfg.Clock(), Gen: s.Watch.Gen, Words: words}
	}
}
