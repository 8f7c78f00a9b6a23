// Package sglang is a simulated SGLang 0.5.23 server: its flags and refusals, log lines, routes,
// metrics and the way it starts and stops.
//
// Known differences: prefix hits come in multiples of 16 tokens even with one-token pages, schedule
// policies other than fcfs are accepted and act as fcfs, and a start that the real server ends by
// killing its own process tree ends here with exit code 1.
package sglang

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim/cli"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
)

// Times of a real start and stop, scaled by the start scale.
const (
	importing = 14 * time.Second // until settings are checked
	loading   = 5 * time.Second
	capturing = 6 * time.Second // graphs, unless disabled
	warming   = 2 * time.Second // the port answers 503 meanwhile
	leaving   = time.Second     // after the last look of a drain
	keepAlive = 5 * time.Second // idle HTTP connections
)

// phase is a part of start-up as the server reports it.
type phase struct {
	name string
	took time.Duration
}

// ErrInvocation means argv does not start SGLang's server.
var ErrInvocation = errors.New("want: python -m sglang.launch_server … or sglang serve …")

// serveArgs strips the program from argv.
func serveArgs(argv []string) ([]string, error) {
	for i, a := range argv {
		switch {
		case a == "sglang.launch_server", a == "serve":
			return argv[i+1:], nil
		case i > 3:
			return nil, ErrInvocation
		}
	}
	return nil, ErrInvocation
}

// Run is the process: it returns the exit code. The end of ctx is SIGTERM.
func Run(ctx context.Context, env *sim.Env, argv []string) int {
	argv, err := serveArgs(argv)
	if err != nil {
		fmt.Fprintln(env.Stderr, "sim-engine:", err)
		return 2
	}
	flags := newFlags()
	args, err := flags.Parse(argv)
	if err == nil && !args.Has("model-path") {
		err = &cli.UsageError{Text: "the following arguments are required: --model-path/--model"}
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
	env.Announce(args.Inert)
	log := &sim.LineLog{W: env.Stderr, Prefix: func(t time.Time) string { return t.Format("[2006-01-02 15:04:05] ") + "[simulated] " }}
	p := &process{env: env, machine: machine, log: log}
	return p.run(ctx, args)
}

type process struct {
	env     *sim.Env
	machine *sim.Machine
	log     *sim.LineLog
}

func (p *process) run(ctx context.Context, args *cli.Args) int {
	if p.env.StartUp(ctx, []sim.Phase{{Lasts: importing}}, p.log.Print) != nil {
		return 0
	}
	set, err := resolve(args, p.machine)
	if err != nil {
		return p.refuse(err)
	}
	p.log.Printf("server_args={'model_path': '%s', 'host': '%s', 'port': %d, 'mem_fraction_static': %g, 'chunked_prefill_size': %d, 'schedule_conservativeness': %g}",
		set.model, set.host, set.port, set.layout.Fraction, set.chunk, set.core.Conservativeness)
	children, err := p.env.Spawn(sim.DiesWith, "sglang::scheduler", "sglang::detokenizer")
	if err != nil {
		return p.refuse(err)
	}
	defer children.End()
	if err := set.fit(p.machine); err != nil {
		return p.refuse(fmt.Errorf("scheduler hit an exception: %w", err))
	}
	if p.env.StartUp(ctx, p.phases(set), p.log.Print) != nil {
		return 0
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(set.host, strconv.Itoa(set.port)))
	if err != nil {
		if sim.PortTaken(err) {
			err = fmt.Errorf("ERROR:    [Errno 98] error while attempting to bind on address ('%s', %d): address already in use", set.host, set.port)
		}
		return p.refuse(err)
	}
	return p.serve(ctx, set, ln)
}

// refuse prints what ends a start.
func (p *process) refuse(err error) int {
	fmt.Fprintf(p.env.Stderr, "Traceback (most recent call last):\n  File \"<frozen runpy>\", line 198, in _run_module_as_main\n%s\n", err)
	return 1
}

func (p *process) phases(s *settings) []sim.Phase {
	free := p.machine.MemoryGiB() - gib(s.memory.WeightBytes) - gib(contextGuess)
	left := free - gib(s.memory.KVBytes)
	capture, lines := capturing, []string{"Capture decode CUDA graph begin. This can take up to several minutes.", "Capture decode CUDA graph end."}
	if s.layout.Eager {
		capture, lines = 0, nil
	}
	return []sim.Phase{
		{Lasts: loading, Lines: []string{
			fmt.Sprintf("Load weight end. elapsed=%.2f s, type=LlamaForCausalLM, avail mem=%.2f GB, mem usage=%.2f GB.", loading.Seconds(), free, gib(s.memory.WeightBytes)),
			fmt.Sprintf("KV Cache is allocated. dtype: torch.bfloat16, #tokens: %d, K size: %.2f GB, V size: %.2f GB", s.core.KVTokens, gib(s.memory.KVBytes)/2, gib(s.memory.KVBytes)/2),
			fmt.Sprintf("Memory pool end. avail mem=%.2f GB", left),
		}},
		{Lasts: capture, Lines: append(lines, fmt.Sprintf("max_total_num_tokens=%d, chunked_prefill_size=%d, max_prefill_tokens=%d, max_running_requests=%d, context_len=%d, available_gpu_mem=%.2f GB",
			s.core.KVTokens, s.chunk, s.maxPrefill, s.maxRunning, s.core.MaxModelLen, left-gib(s.memory.GraphBytes)))},
	}
}

// contextGuess is the device memory that the log's figures leave to the driver.
const contextGuess = .5 * (1 << 30)

func (p *process) serve(ctx context.Context, set *settings, ln net.Listener) int {
	core, err := p.machine.Core(set.core, set.layout)
	if err != nil {
		ln.Close()
		return p.refuse(err)
	}
	scale := func(d time.Duration) time.Duration { return time.Duration(float64(d) * p.env.StartScale) }
	started := []phase{
		{"load_weight", scale(loading)},
		{"scheduler_e2e", scale(loading + capturing)},
		{"tokenizer_e2e", scale(importing + loading + capturing + warming)},
	}
	srv := &server{set: set, metrics: newMetrics(set, started), output: p.env.Faults.Output, phases: started}
	srv.engine = live.New(core, srv.metrics, p.env.Faults, p.env.Log)
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	go func() { srv.engine.Run(life); close(stopped) }()
	web := sim.Serve(ln, srv.handler(), keepAlive)
	if p.env.StartUp(ctx, []sim.Phase{{Lasts: warming}}, p.log.Print) == nil && srv.warmUp(ctx) {
		srv.state.Store(int32(up))
		p.log.Print("The server is fired up and ready to roll!")
	}

	<-ctx.Done()
	p.drain(life, srv)
	kill()
	<-stopped
	web.Close()
	return 0
}

// drain looks now and then whether requests are left. It has no limit, and new ones are still taken.
func (p *process) drain(life context.Context, srv *server) {
	srv.state.Store(int32(draining))
	p.log.Print("SIGTERM received. signum=None frame=None. Draining requests and shutting down...")
	look := time.NewTicker(p.env.DrainPoll)
	defer look.Stop()
	for left := 1; left > 0; {
		<-look.C
		left = srv.engine.InFlight()
		p.log.Printf("Gracefully exiting... Remaining number of requests %d.", left)
	}
	p.env.StartUp(life, []sim.Phase{{Lasts: leaving}}, p.log.Print)
}
