// Package demo runs the whole loop on one machine, with real processes: three control-plane nodes,
// twelve simulated engines under real HTTP load, their launchers and sidecars. It tells in plain
// words what happens, kills the leader in the middle of a wave, plants a bad configuration, ends
// everything it started and leaves a report.
//
// It uses the programs as a user would: configuration files, the REST interface, the load
// generator's own measurements. Nothing here reaches into the loop.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

// Options of a run.
type Options struct {
	Agent        string // path of perf-agent
	ControlPlane string // path of perf-controlplane
	Report       string // where the report goes
	Keep         bool   // leave everything running until interrupted
	Out          io.Writer
}

// Spans of the story. Everything is shorter than in production, and said so.
const (
	settle      = 5 * time.Second  // from first traffic to the baseline
	collectSpan = 20 * time.Second // telemetry that the diagnosis looks at; also the baseline
	afterSpan   = 20 * time.Second // the same after the promotion
	startScale  = 0.04             // of engine start-up; serving is never scaled
	upTimeout   = 60 * time.Second
	rollTimeout = 150 * time.Second
)

// Objectives of the chat group: a request is good when it meets both.
const (
	objectiveTTFT = 0.5  // seconds
	objectiveTPOT = 0.05 // seconds
)

// story is one run of the demo.
type story struct {
	opts  Options
	dir   string
	procs *processes
	fleet *fleet
	began time.Time
	// promoted is when the better configuration became the group's own.
	promoted time.Time
	report   Report
	control  *failover
}

// Run tells the story. The error, if any, is what went wrong; what was started has ended by then
// unless Keep is set.
func Run(ctx context.Context, opts Options) (err error) {
	dir, err := os.MkdirTemp("", "perf-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	s := &story{opts: opts, dir: dir, procs: newProcesses(filepath.Join(dir, "logs")), began: time.Now()}
	defer func() {
		if err != nil {
			s.say("logs are kept in %s", filepath.Join(dir, "logs"))
		} else {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	defer func() { err = errors.Join(err, s.teardown()) }()
	if err := s.tell(ctx); err != nil {
		return err
	}
	if opts.Keep {
		s.say("still running: REST %s · docs %s/docs · perfctl with PERF_ADDR=%s; ^C ends it", s.control.addr(), s.control.addr(), s.control.addr())
		<-ctx.Done()
	}
	return nil
}

// tell is the story, one chapter after the other.
func (s *story) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		s.start, s.baseline, s.improve, s.measureAfter, s.plantBadProposal, s.finish,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// say prints one line with the time since the beginning.
func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.opts.Out, "%5.1f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) start(ctx context.Context) error {
	s.say("SIMULATED engines, real processes: this demo needs no GPU; timings of serving are never scaled, start-up is (×%.2f)", startScale)
	var err error
	if s.fleet, err = layOut(s.dir, s.opts); err != nil {
		return err
	}
	s.control = newFailover(s.fleet.controlURLs())
	if err := s.fleet.startControlPlane(s.procs); err != nil {
		return err
	}
	if err := s.fleet.startEngines(s.procs); err != nil {
		return err
	}
	s.say("started 3 control-plane nodes and %d engines, each with launcher and sidecar: chat ×%d (vLLM, %s), code ×2 (SGLang), summarize ×2 (TGI)", len(s.fleet.engines), chatReplicas, chatBad)
	up, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	err = client.Wait(up, 300*time.Millisecond, func(ctx context.Context) (bool, error) {
		if err := s.procs.check(); err != nil {
			return false, err
		}
		var agents api.List[api.Agent]
		if s.control.get(ctx, "/agents?limit=1000", &agents) != nil {
			return false, nil
		}
		return inRotation(agents) == len(s.fleet.engines), nil
	})
	if err != nil {
		return s.notUp(ctx, err)
	}
	s.say("all %d engines are in rotation; leader is %s", len(s.fleet.engines), s.control.leader(ctx))
	return nil
}

// notUp says which engines are missing.
func (s *story) notUp(ctx context.Context, cause error) error {
	var agents api.List[api.Agent]
	if err := s.control.get(ctx, "/agents?limit=1000", &agents); err != nil {
		return fmt.Errorf("the control plane does not answer: %w", errors.Join(cause, err))
	}
	missing := ""
	for _, a := range agents.Items {
		for _, e := range a.Engines {
			if !e.Serving {
				missing += fmt.Sprintf("\n  %s: %s, %s", e.Name, e.Phase, e.Health)
			}
		}
	}
	return fmt.Errorf("%d of %d engines are in rotation after %s: %w%s", inRotation(agents), len(s.fleet.engines), upTimeout, cause, missing)
}

func inRotation(agents api.List[api.Agent]) int {
	n := 0
	for _, a := range agents.Items {
		for _, e := range a.Engines {
			if e.Serving {
				n++
			}
		}
	}
	return n
}

// baseline sends traffic and measures what the bad settings give.
func (s *story) baseline(ctx context.Context) error {
	if err := s.fleet.startTraffic(s.procs); err != nil {
		return err
	}
	s.say("traffic runs: chat as the published Azure conversation trace (rates, lengths, burstiness) at %.2f requests/s, open loop, round robin over ready replicas", chatRate)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	from := time.Now()
	s.say("measuring the baseline for %.0f s", collectSpan.Seconds())
	if err := pause(ctx, collectSpan); err != nil {
		return err
	}
	var err error
	s.report.Before, err = s.fleet.measure("chat", from, time.Now())
	if err != nil {
		return err
	}
	b := s.report.Before
	s.say("baseline of chat: TTFT p95 %.2f s, E2E p95 %.2f s, %.0f %% of requests within TTFT ≤ %.1f s and TPOT ≤ %.0f ms", b.TTFT.P95, b.E2E.P95, 100*b.GoodShare, objectiveTTFT, 1000*objectiveTPOT)
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

// finish ends the traffic, prints the table and writes the report.
func (s *story) finish(ctx context.Context) error {
	if err := s.fleet.stopTraffic(ctx, s.procs); err != nil {
		return err
	}
	lost, err := s.fleet.lost()
	if err != nil {
		return err
	}
	s.report.Lost = lost
	if s.report.Defaults, err = s.fleet.measureAll("defaults"); err != nil {
		return err
	}
	s.report.Seconds = time.Since(s.began).Seconds()
	s.report.print(s.opts.Out)
	if err := s.report.write(s.opts.Report); err != nil {
		return err
	}
	s.say("report: %s", s.opts.Report)
	return s.report.verdict()
}

// teardown ends every process and proves it.
func (s *story) teardown() error {
	err := s.procs.stopAll()
	if err == nil {
		s.say("everything has ended: no process and no port is left")
	}
	return err
}
