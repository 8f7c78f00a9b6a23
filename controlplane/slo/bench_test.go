package slo

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// second makes what an instance did in a second; nil: no window.
type second func(id string, at time.Time) *fleet.Window

// bench is a service over a real state machine, with replicas whose windows are made up.
type bench struct {
	*testing.T
	mu       sync.Mutex // guards world's log: causes are searched for beside the counting
	world    *fsmtest.World
	service  *Service
	now      time.Time
	past     []stretch
	findings []*commandv1.Finding
}

type stretch struct {
	from time.Time
	make second
}

const group = fsmtest.Group

func newBench(t *testing.T, replicas int, objectives ...*commandv1.Objective) *bench {
	b := &bench{T: t, world: fsmtest.New(replicas), now: time.UnixMilli(1_700_000_100_000)} // on a boundary of five minutes
	b.world.NowMs = b.now.UnixMilli()
	b.service = b.start()
	b.put(objectives...)
	return b
}

// start another leader over the same log.
func (b *bench) start() *Service {
	return New(Config{Now: func() time.Time { return b.now }}, b.world.Machine, Ports{Log: b, Windows: b, History: b, Analyst: b}, slog.New(slog.DiscardHandler))
}

func (b *bench) put(objectives ...*commandv1.Objective) {
	b.Helper()
	if len(objectives) == 0 {
		return
	}
	if err := b.world.Do(commandv1.CommandType_COMMAND_TYPE_PUT_OBJECTIVES, &commandv1.PutObjectives{Objectives: objectives}).Err(); err != nil {
		b.Fatal(err)
	}
}

// Propose implements Log.
func (b *bench) Propose(_ context.Context, typ commandv1.CommandType, payload proto.Message, id, actor string) (fsm.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.world.NowMs = b.now.UnixMilli()
	return b.world.DoAs(typ, payload, id, actor), nil
}

// Windows implements Windows: those of the last ten minutes.
func (b *bench) Windows(ids []string, from, to time.Time) (found []*fleet.Window) {
	for _, id := range ids {
		for at := from; at.Before(to); at = at.Add(time.Second) {
			if b.now.Sub(at) > 10*time.Minute {
				continue
			}
			if w := b.window(id, at); w != nil {
				found = append(found, w)
			}
		}
	}
	return found
}

func (b *bench) window(id string, at time.Time) *fleet.Window {
	for k := len(b.past) - 1; k >= 0; k-- {
		if !at.Before(b.past[k].from) {
			return b.past[k].make(id, at)
		}
	}
	return nil
}

// Steps implements History, without anything older than windows.
func (b *bench) Steps(ids, _ []string, from, to time.Time, step time.Duration) (found []*fleet.Aggregate, err error) {
	for at := from; at.Before(to); at = at.Add(step) {
		a := fleet.NewAggregate()
		for _, id := range ids {
			for sec := at; sec.Before(at.Add(step)); sec = sec.Add(time.Second) {
				if w := b.window(id, sec); w != nil {
					if err := a.Add(w); err != nil {
						return nil, err
					}
				}
			}
		}
		found = append(found, a)
	}
	return found, nil
}

// Findings implements Analyst.
func (b *bench) Findings(context.Context, string) ([]*commandv1.Finding, error) {
	return b.findings, nil
}

// during sets what replicas do from now on and lets time pass.
func (b *bench) during(d time.Duration, make second) {
	b.past = append(b.past, stretch{b.now, make})
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(2 * time.Second)
		b.service.turn(b.Context())
		b.service.causes.Wait()
	}
}

func (b *bench) status(name string) Status {
	b.Helper()
	o := b.world.Machine.Objective(name)
	if o == nil {
		b.Fatalf("no objective %s", name)
	}
	return b.service.StatusOf(o)
}

func (b *bench) violations() []*commandv1.Violation { return b.world.Machine.Violations("") }

// served is a window with requests whose first token took that long.
func served(id string, at time.Time, requests int, ttft float64) *fleet.Window {
	w := fleet.NewWindow(id, at)
	w.Serving = true
	w.Sources = []*agentv1.Source{{Name: fleet.SourceEngine}}
	w.Counters[fleet.RequestsFinished] = float64(requests)
	if requests > 0 {
		k := stats.NewSketch()
		_ = k.AddN(ttft, float64(requests))
		w.Sketches[fleet.TTFT], w.Origin[fleet.TTFT] = k, fleet.SourceProbe
	}
	return w
}

// steady traffic: requests a second per replica, with a first token after ttft seconds.
func steady(requests int, ttft float64) second {
	return func(id string, at time.Time) *fleet.Window { return served(id, at, requests, ttft) }
}

func silent(string, time.Time) *fleet.Window { return nil }

func fast(name string) *commandv1.Objective {
	return &commandv1.Objective{
		Name: name, Group: group, Indicator: commandv1.Indicator_INDICATOR_TTFT, BoundSeconds: 0.5, Target: 0.95, PeriodMs: (30 * 24 * time.Hour).Milliseconds(),
	}
}

// hourly is fast with a budget of an hour, which three minutes of outage use up.
func hourly(name string) *commandv1.Objective {
	o := fast(name)
	o.PeriodMs = time.Hour.Milliseconds()
	return o
}

func near(got, want, tolerance float64) bool { return got > want-tolerance && got < want+tolerance }

func envelopeOf(t *testing.T, raw []byte) *commandv1.Envelope {
	t.Helper()
	env := &commandv1.Envelope{}
	if err := proto.Unmarshal(raw, env); err != nil {
		t.Fatal(err)
	}
	return env
}
