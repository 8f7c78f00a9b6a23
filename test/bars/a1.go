package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// The load of A1: streamed chat requests with Poisson arrivals at a simulated engine, which like its
// clients, its launcher and the control plane is a process of its own and is not counted.
const (
	a1Rate    = 50.0
	a1Prompt  = 512
	a1Output  = 128
	a1Warm    = 30 * time.Second
	a1Seconds = 90
	a1Slice   = 10 // seconds: how steady the figure is
	a1CPU     = 1.0
	a1Memory  = 40.0
	megabyte  = 1e6
	gpuReader = "perf-gpu"
	a1Group   = "bar"
)

// sidecarBar measures what a sidecar takes.
func sidecarBar(ctx context.Context, bin string, out io.Writer) (err error) {
	p, err := newPrograms(bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	s, err := startSidecar(ctx, p)
	if err != nil {
		return err
	}
	if err := s.load(p); err != nil {
		return err
	}
	if err := s.measure(ctx, p); err != nil {
		return err
	}
	facts, err := s.facts(ctx)
	if err != nil {
		return err
	}
	return printSidecar(out, s.start, s.samples, facts)
}

// sidecar beside an engine, with a control plane.
type sidecar struct {
	control         *control
	launcher, agent *program
	engine, url     string          // of the engine and of the sidecar
	start, samples  []sidecarSample // until the load is even, and after
}

func startSidecar(ctx context.Context, p *programs) (*sidecar, error) {
	control, err := p.startControl(ctx)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	s := &sidecar{control: control, engine: "http://" + loopback(ports[0]), url: "http://" + loopback(ports[1])}
	s.launcher, err = p.start("launcher", nil, "perf-agent", "launch", "--socket", p.file("l.sock"), "--state-dir", p.file("launch"), "--",
		p.bin+"/perf-agent", "sim-engine", "--dialect", "vllm", "--sim-start-scale", "0.02", "--",
		"vllm", "serve", "llama-3.1-8b", "--host", "127.0.0.1", "--port", strconv.Itoa(ports[0]))
	if err != nil {
		return nil, err
	}
	file, err := p.write("sidecar.yaml", fmt.Sprintf("agent_id: sidecar\ndata_dir: %s\nlisten: %s\ncontrol_plane: [%q]\nengines:\n  - {name: \"0\", group: %s, url: %q, launcher: %s, hardware: h100-sxm}\n",
		p.file("sidecar"), loopback(ports[1]), control.agents, a1Group, s.engine, p.file("l.sock")))
	if err != nil {
		return nil, err
	}
	if s.agent, err = p.start("sidecar", nil, "perf-agent", "run", "--config", file); err != nil {
		return nil, err
	}
	return s, p.wait(ctx, "the engine in rotation", time.Minute, func(ctx context.Context) bool { return answers(ctx, s.url+"/ready") })
}

// load starts the engine's clients. Like a balancer they ask the sidecar whether the engine is in
// rotation.
func (s *sidecar) load(p *programs) error {
	_, err := p.start("clients", nil, "perf-agent", "bench", "--target", s.engine+","+s.url+"/ready",
		"--rate", fmt.Sprint(a1Rate), "--prompt-tokens", strconv.Itoa(a1Prompt), "--output-tokens", strconv.Itoa(a1Output),
		"--duration", (a1Warm + (a1Seconds+60)*time.Second).String())
	return err
}

// sidecarSample is what the sidecar's processes had taken at one time.
type sidecarSample struct {
	at              time.Time
	agent, children usage
	programs        []string // names of the children
}

// measure looks once a second.
func (s *sidecar) measure(ctx context.Context, p *programs) error {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for from := time.Now().Add(a1Warm); len(s.samples) <= a1Seconds; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-second.C:
			if err := p.check(); err != nil {
				return err
			}
			sample, err := s.sample(now)
			if err != nil {
				return err
			}
			if now.Before(from) {
				s.start = append(s.start, sample)
				continue
			}
			s.samples = append(s.samples, sample)
		}
	}
	return nil
}

// sample the agent, its children, and the GPU reader, which the launcher runs for it.
func (s *sidecar) sample(now time.Time) (out sidecarSample, err error) {
	out.at = now
	if out.agent, err = usageOf(s.agent.pid()); err != nil {
		return out, err
	}
	children, err := descendants(s.agent.pid())
	if err != nil {
		return out, err
	}
	beside, err := descendants(s.launcher.pid())
	if err != nil {
		return out, err
	}
	maps.DeleteFunc(beside, func(_ int, name string) bool { return name != gpuReader })
	maps.Copy(children, beside)
	for pid := range children {
		u, err := usageOf(pid)
		if errors.Is(err, os.ErrNotExist) {
			continue // it ended meanwhile; its time is its parent's now
		}
		if err != nil {
			return out, err
		}
		out.children.add(u)
		out.programs = append(out.programs, programName(pid))
	}
	slices.Sort(out.programs)
	return out, nil
}

// sidecarFacts say what the sidecar did meanwhile.
type sidecarFacts struct {
	requests, tokens float64 // a second
	windows          int     // that the control plane has of the measured seconds
	stale            int     // of them, with a source that had gone stale
	source           string  // of the latencies
	dropped          uint64  // windows, by the sidecar
	gpu              string
}

// facts by the control plane, which knows only what was sent, and by the sidecar.
func (s *sidecar) facts(ctx context.Context) (f sidecarFacts, err error) {
	query := fmt.Sprintf("?group=%s&window_seconds=%d", a1Group, a1Seconds)
	var rates api.Throughput
	var latency api.Latency
	var status struct {
		ControlPlane struct {
			Dropped uint64 `json:"dropped_windows"`
		} `json:"control_plane"`
		GPUs []struct {
			Problem string `json:"problem"`
			Absent  bool   `json:"absent"`
		} `json:"gpus"`
	}
	err = errors.Join(s.control.Get(ctx, "/metrics/throughput"+query, &rates), s.control.Get(ctx, "/metrics/latency"+query, &latency),
		getJSON(ctx, s.url+"/status", &status))
	f = sidecarFacts{
		requests: rates.RequestsPerSecond, tokens: rates.GenerationTokensPerSecond, windows: rates.Windows, stale: rates.StaleSecs,
		dropped: status.ControlPlane.Dropped, gpu: "off",
	}
	for _, d := range latency.Distributions {
		if d.Metric == fleet.TTFT {
			f.source = d.Source
		}
	}
	for _, g := range status.GPUs {
		f.gpu = cmp.Or(g.Problem, "read")
		if g.Absent {
			f.gpu = "absent"
		}
	}
	return f, err
}

// sidecarFigures are the arithmetic of A1.
type sidecarFigures struct {
	cpu, agent, children float64 // percent of one core
	low, high            float64 // cpu of the quietest and the busiest slice
	seconds              float64
}

func figuresOf(samples []sidecarSample) (f sidecarFigures) {
	share := func(used, span time.Duration) float64 { return 100 * float64(used) / float64(span) }
	first, last := samples[0], samples[len(samples)-1]
	span := last.at.Sub(first.at)
	f.agent, f.children = share(last.agent.cpu-first.agent.cpu, span), share(last.children.cpu-first.children.cpu, span)
	f.cpu, f.seconds = f.agent+f.children, span.Seconds()
	for i := a1Slice; i < len(samples); i += a1Slice {
		from, to := samples[i-a1Slice], samples[i]
		slice := share(to.agent.cpu+to.children.cpu-from.agent.cpu-from.children.cpu, to.at.Sub(from.at))
		f.high = max(f.high, slice)
		if f.low == 0 || slice < f.low {
			f.low = slice
		}
	}
	return f
}

// steady is the middle of what was resident, in megabytes.
func steady(samples []sidecarSample, of func(sidecarSample) int64) float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, float64(of(s))/megabyte)
	}
	slices.Sort(all)
	return middle(all)
}

// most of something that was ever seen, in megabytes.
func most(samples []sidecarSample, of func(sidecarSample) int64) (mb float64) {
	for _, s := range samples {
		mb = max(mb, float64(of(s))/megabyte)
	}
	return mb
}

func printSidecar(out io.Writer, start, samples []sidecarSample, facts sidecarFacts) error {
	f, last, all := figuresOf(samples), samples[len(samples)-1], append(slices.Clone(start), samples...)
	children := cmp.Or(strings.Join(last.programs, "+"), "none")
	_, err := fmt.Fprintf(out, `BAR A1 value=%.2f unit=percent target<=%.0f of=one_core agent=%.2f children=%.2f slices_of_%d_s=%.2f..%.2f seconds=%.0f requests_per_s=%.1f tokens_per_s=%.0f latencies_from=%s windows=%d stale=%d dropped=%d children_are=%s gpu=%q simulated_engine=true
BAR A1.rss value=%.1f unit=MB target<=%.0f of=peak steady=%.1f agent_peak=%.1f agent_steady=%.1f children_peak=%.1f children_steady=%.1f steady_anonymous=%.1f
`, f.cpu, a1CPU, f.agent, f.children, a1Slice, f.low, f.high, f.seconds, facts.requests, facts.tokens, facts.source, facts.windows, facts.stale, facts.dropped, children, facts.gpu,
		most(all, func(s sidecarSample) int64 { return s.agent.peak + s.children.peak }), a1Memory,
		steady(samples, func(s sidecarSample) int64 { return s.agent.rss + s.children.rss }),
		most(all, func(s sidecarSample) int64 { return s.agent.peak }), steady(samples, func(s sidecarSample) int64 { return s.agent.rss }),
		most(all, func(s sidecarSample) int64 { return s.children.peak }), steady(samples, func(s sidecarSample) int64 { return s.children.rss }),
		steady(samples, func(s sidecarSample) int64 { return s.agent.anonymous + s.children.anonymous }))
	return err
}

func getJSON(ctx context.Context, url string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
