// Package story plays the whole loop on real engines: documented bad flags, open-loop load, an
// unattended workflow that finds what is wrong, proposes, applies, verifies and promotes, and bad
// proposals that are taken back. The demo, bar M1r and the test of the loop are such stories.
package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/test/real/demo/stage"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// Options of a story.
type Options struct {
	Bin      string // folder of the built programs
	Scenario string // the mistake: one of Scenarios
	Replicas int    // 1 or 2
	Bad      Bad
	Out      io.Writer // what happens, as it happens
}

// Bad says which bad proposals are planted at the end.
type Bad string

// Bad proposals: settings that the engine refuses at its start, that more than halve its throughput.
const (
	NoBad      Bad = "none"
	BadRefused Bad = "refused"
	BadSlower  Bad = "slower"
	BothBad    Bad = "both"
)

// Spans of the story.
const (
	settle    = 8 * time.Second  // from the first request to the baseline
	span      = 25 * time.Second // of the baseline, of the diagnosis and of the result
	waitLimit = 4 * time.Minute  // for what piled up during a restart
)

// story is one run.
type story struct {
	Options
	recipe   engine.Recipe
	scenario scenario
	stage    *stage.Stage
	load     *stage.Load
	began    time.Time
	result   Report
}

// Tell plays the story; what it started has ended when it returns. The error says why the story did
// not come to its end; whether its figures are good is Report.Verdict.
func Tell(ctx context.Context, recipe engine.Recipe, o Options) (_ Report, err error) {
	s := &story{Options: o, recipe: recipe, began: time.Now()}
	if s.scenario, err = scenarioOf(o.Scenario, recipe.Kind); err != nil {
		return Report{}, err
	}
	s.result = Report{Engine: string(recipe.Kind), Version: engine.Versions[recipe.Kind], Scenario: o.Scenario, Replicas: o.Replicas, Flags: s.scenario.flags, Traffic: s.scenario.traffic}
	s.say("REAL %s %s on this machine's CPU, tiny random-weight model, %d replica(s); the operator's mistake: %s (%s)",
		recipe.Kind, s.result.Version, o.Replicas, s.scenario.words, strings.Join(s.scenario.flags, " "))
	s.stage, err = stage.Open(stage.Options{Recipe: recipe, Bin: o.Bin, Replicas: o.Replicas, Flags: s.scenario.flags, Collect: span})
	if err != nil {
		return s.result, err
	}
	defer func() {
		if err = errors.Join(err, s.stage.Close()); err != nil {
			s.say("logs are kept in %s", s.stage.LogDir())
			return
		}
		s.say("everything has ended: no process is left")
		err = s.stage.Remove()
	}()
	for _, chapter := range []func(context.Context) error{s.start, s.baseline, s.improve, s.after, s.plant, s.finish} {
		if err := chapter(ctx); err != nil {
			return s.result, err
		}
	}
	return s.result, nil
}

func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.Out, "%5.1f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) start(ctx context.Context) error {
	if err := s.stage.WaitServing(ctx); err != nil {
		return err
	}
	s.result.StartSeconds = time.Since(s.began).Seconds()
	s.say("in rotation; started like any other engine, below perf-agent launch with a sidecar beside it")
	return nil
}

// baseline measures what the mistake costs.
func (s *story) baseline(ctx context.Context) (err error) {
	if s.load, err = s.stage.Send(s.scenario.traffic); err != nil {
		return err
	}
	t := s.scenario.traffic
	s.say("load runs: %.1f requests/s, open loop, %d words in, %d tokens out; the gateway holds what replicas cannot take", t.Rate, t.PromptWords, t.OutputTokens)
	if err := pause(ctx, settle+span); err != nil {
		return err
	}
	now := time.Now()
	s.result.Before = stage.Measure(s.load.Records(), now.Add(-span), now)
	waiting, open := s.stage.Gateway().Queue()
	s.say("before: %s; %d requests open, %d held at the gateway and growing", s.result.Before, open, waiting)
	return nil
}

// improve lets the unattended workflow do its work.
func (s *story) improve(ctx context.Context) error {
	s.say("asking the control plane to improve the group by itself (mode auto)")
	began := time.Now()
	got, err := s.stage.Improve(ctx, s.say)
	s.result.adopt(got)
	if err != nil {
		return err
	}
	s.result.LoopSeconds = time.Since(began).Seconds()
	s.say("finding: %s", s.result.Finding)
	s.say("proposal: %s", s.result.Proposal)
	for _, e := range got.Recommendation.Evidence {
		s.say("  because: %s", e)
	}
	return nil
}

// after measures once what piled up during the restart has been answered.
func (s *story) after(ctx context.Context) error {
	waiting, open := s.stage.Gateway().Queue()
	s.say("promoted and verified; %d requests open, %d held from the restart are being answered", open, waiting)
	limit, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	if err := s.stage.Settled(limit); err != nil {
		return fmt.Errorf("what piled up was not answered in %s: %w", waitLimit, err)
	}
	from := time.Now().Add(2 * time.Second) // the last of them
	if err := pause(ctx, 2*time.Second+span); err != nil {
		return err
	}
	s.result.After = stage.Measure(s.load.Records(), from, time.Now())
	s.say("after, at the same load: %s", s.result.After)
	return nil
}

// plant offers bad settings and watches them being taken back.
func (s *story) plant(ctx context.Context) error {
	if s.Bad == BadRefused || s.Bad == BothBad {
		if err := s.plantOne(ctx, "settings that the engine refuses at its start", s.scenario.refused); err != nil {
			return err
		}
	}
	if s.Bad == BadSlower || s.Bad == BothBad {
		return s.plantOne(ctx, "settings that more than halve the throughput", s.scenario.slower)
	}
	return nil
}

func (s *story) plantOne(ctx context.Context, words string, settings map[string]string) error {
	s.say("planting a bad proposal, %s: %v", words, settings)
	began := time.Now()
	r, err := s.stage.Roll(ctx, settings, "planted by the demo", s.say)
	bad := Planted{
		Settings: settings, State: r.State, Reason: r.EndReason, Seconds: time.Since(began).Seconds(),
		MitigateSeconds: r.MitigateSeconds, RestoreSeconds: r.RestoreSeconds,
	}
	s.result.Bad = append(s.result.Bad, bad)
	if err != nil {
		return err
	}
	if r.State != "rolled_back" {
		return fmt.Errorf("the bad proposal ended %s: %s", r.State, r.EndReason)
	}
	s.say("taken back after %.0f s (mitigated in %.1f s, restored in %.1f s): %s", bad.Seconds, bad.MitigateSeconds, bad.RestoreSeconds, r.EndReason)
	return s.stage.WaitServing(ctx)
}

// finish ends the load, counts and prints.
func (s *story) finish(context.Context) error {
	waiting, open := s.stage.Gateway().Queue()
	s.say("no more requests; waiting for the %d that are still open", waiting+open)
	all := s.load.End()
	s.result.Requests, s.result.Resent = len(all), s.stage.Gateway().Resent()
	for _, r := range stage.Failures(all) {
		s.result.Lost++
		s.say("LOST request %d: %s %s", r.Number, r.Failed, r.Detail)
	}
	s.result.Seconds = time.Since(s.began).Seconds()
	s.result.print(s.Out)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
