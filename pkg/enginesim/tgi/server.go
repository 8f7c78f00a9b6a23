// Package tgi is a simulated Text Generation Inference 3.3.7 launcher with its router: flags and
// refusals, log lines, routes, metrics and the way it starts and stops.
//
// With helper processes, launcher, router and shard are three as in the real one: killed, the launcher
// leaves the others behind, and the router goes on serving. Without, one process is all of them.
//
// Known differences: speculation switches chunked prefill off as it does in the real one but makes
// nothing faster, and without chunked prefill a request's tokens may not exceed the prefill budget.
package tgi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim/cli"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
)

// Times of a real start and stop, scaled by the start scale.
const (
	downloading = 4 * time.Second
	sharding    = 15 * time.Second
	warming     = 9 * time.Second
	routing     = 2 * time.Second
	leaving     = 2 * time.Second // after the last request of a drain
	leavingIdle = 4 * time.Second
)

// serveArgs strips the program from argv.
func serveArgs(argv []string) []string {
	if len(argv) > 0 && path.Base(argv[0]) == "text-generation-launcher" {
		return argv[1:]
	}
	return argv
}

// Run is the process: it returns the exit code. The end of ctx is SIGTERM.
func Run(ctx context.Context, env *sim.Env, argv []string) int {
	flags := newFlags()
	args, err := flags.Parse(serveArgs(argv))
	if err == nil {
		err = flags.SetEnv(args, env.Getenv)
	}
	if usage, ok := errors.AsType[*cli.UsageError](err); ok {
		fmt.Fprint(env.Stderr, flags.Message(usage))
		return 2
	}
	machine, err := env.Machine()
	if err != nil {
		fmt.Fprintln(env.Stderr, "sim-engine:", err)
		return 2
	}
	if env.Part == "" {
		env.Announce(args.Inert)
	}
	log := &sim.LineLog{W: env.Stdout, Prefix: func(t time.Time) string {
		return t.UTC().Format("2006-01-02T15:04:05.000000Z") + "  INFO text_generation_launcher: [simulated] "
	}}
	p := &process{env: env, machine: machine, log: log}
	return p.run(ctx, args)
}

type process struct {
	env     *sim.Env
	machine *sim.Machine
	log     *sim.LineLog
}

func (p *process) run(ctx context.Context, args *cli.Args) int {
	set, err := resolve(args, p.env.Getenv, p.machine)
	if err != nil {
		return p.refuse(err)
	}
	if p.env.Part == router {
		return p.route(ctx, set)
	}
	if !args.Has("max-batch-prefill-tokens") {
		p.log.Printf("Default `max_batch_prefill_tokens` to %d", set.prefill)
	}
	for _, w := range set.warnings() {
		p.log.Print("WARN " + w)
	}
	children, err := p.env.Spawn(sim.OwnGroup, "text-generation-server")
	if err != nil {
		return p.refuse(err)
	}
	defer children.End()
	load := []sim.Phase{
		{Lines: []string{fmt.Sprintf("Using attention %s - Prefix caching %s", set.attention, pyBool(set.core.PrefixCaching))}},
		{Lasts: downloading, Lines: []string{"Successfully downloaded weights for " + set.model}},
		{Lasts: sharding, Lines: []string{fmt.Sprintf("Shard ready in %.1fs rank=0", sharding.Seconds()), "Warming up model"}},
	}
	if p.env.StartUp(ctx, load, p.log.Print) != nil {
		return 0
	}
	if err := set.fit(p.machine); err != nil {
		return p.refuse(err)
	}
	if p.env.StartUp(ctx, p.warm(set), p.log.Print) != nil {
		return 0
	}
	if p.env.Children {
		return p.supervise(ctx, set, children)
	}
	return p.serve(ctx, set)
}

func listen(set *settings) (net.Listener, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(set.host, strconv.Itoa(set.port)))
	if err != nil && sim.PortTaken(err) {
		return nil, fmt.Errorf("WebserverFailed\nError: Axum webserver error: Address already in use (os error 98) on %s:%d", set.host, set.port)
	}
	return ln, err
}

// refuse prints the launcher's last words.
func (p *process) refuse(err error) int {
	fmt.Fprintf(p.env.Stderr, "Error: %s\n", err)
	return 1
}

func (p *process) warm(s *settings) []sim.Phase {
	blocks := s.core.KVTokens
	size := 1
	if s.attention != "flashinfer" {
		size = s.core.BlockSize
		blocks /= size
	}
	return []sim.Phase{
		{Lasts: warming, Lines: []string{
			fmt.Sprintf("KV-cache blocks: %d, size: %d", blocks, size),
			fmt.Sprintf("Setting max batch total tokens to %d", s.core.KVTokens),
			fmt.Sprintf("Maximum input tokens defaulted to %d", s.maxInput),
			fmt.Sprintf("Maximum total tokens defaulted to %d", s.maxTotal),
			"Using backend V3",
			fmt.Sprintf("Using prefill chunking = %s", pyBool(s.core.ChunkedPrefill)),
		}},
		{Lasts: routing},
	}
}

func pyBool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// webserver is a router that serves.
type webserver struct {
	*server
	web  *sim.Server
	life context.Context // of the engine behind it
	stop func()          // ends the engine and waits for its end
}

// start makes the router and serves on its port.
func (p *process) start(ctx context.Context, set *settings) (*webserver, error) {
	core, err := p.machine.Core(set.core, set.layout)
	if err != nil {
		return nil, err
	}
	ln, err := listen(set)
	if err != nil {
		return nil, err
	}
	w := &webserver{server: &server{set: set, metrics: newMetrics(set), output: p.env.Faults.Output}}
	w.engine = live.New(core, w.metrics, p.env.Faults, p.env.Log)
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	go func() { w.engine.Run(life); close(stopped) }()
	w.life, w.stop = life, func() { kill(); <-stopped }
	w.web = sim.Serve(ln, w.handler(), 0)
	p.log.Print("Connected")
	return w, nil
}

// serve is the whole engine in one process.
func (p *process) serve(ctx context.Context, set *settings) int {
	w, err := p.start(ctx, set)
	if err != nil {
		return p.refuse(err)
	}
	defer w.stop()
	<-ctx.Done()
	p.log.Print("Terminating webserver")
	p.log.Print("Waiting for webserver to gracefully shutdown")
	end := leavingIdle
	if w.engine.InFlight() > 0 {
		end = leaving
	}
	w.drain()
	p.env.StartUp(w.life, []sim.Phase{{Lasts: end, Lines: []string{"webserver terminated", "Shutting down shards"}}}, p.log.Print)
	return 0
}

// drain closes the port at once, lets what runs and waits finish within the grace, and cuts the rest.
func (w *webserver) drain() {
	limit, cancel := context.WithTimeout(w.life, time.Duration(w.set.graceful)*time.Second)
	defer cancel()
	w.web.Shutdown(limit)
	w.engine.CancelAll()
}
