// Package vllm is a simulated vLLM 0.32 server: its flags and refusals, log lines, routes, metrics
// and the way it starts and stops.
//
// Known differences: one API server and one engine whatever the data-parallel flags say, text
// generation only, and a client of a server that is stopped without a drain sees its stream cut.
package vllm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim/cli"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
)

// Times of a real start and stop, scaled by the start scale.
const (
	importing = 19 * time.Second // until flags beyond their form are checked
	loading   = 25 * time.Second
	compiling = 44 * time.Second // unless eager
	warming   = 14 * time.Second
	leaving   = 2500 * time.Millisecond // from an idle server's SIGTERM to its end
	windingUp = 5 * time.Second         // after the last request of a drain
	keepAlive = 5 * time.Second         // idle HTTP connections
)

// ErrInvocation means argv does not start vLLM's server.
var ErrInvocation = errors.New("want: vllm serve MODEL … or python -m vllm.entrypoints.openai.api_server …")

// serveArgs strips the program from argv: "vllm serve", "serve", or the Python module form.
func serveArgs(argv []string) ([]string, error) {
	for i, a := range argv {
		switch {
		case a == "serve", a == "vllm.entrypoints.openai.api_server":
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
	p := &process{env: env, machine: machine, log: newLog(env)}
	return p.run(ctx, args)
}

func newLog(env *sim.Env) *sim.LineLog {
	pid := os.Getpid()
	return &sim.LineLog{W: env.Stdout, Prefix: func(t time.Time) string {
		return fmt.Sprintf("(APIServer pid=%d) INFO %s [simulated] ", pid, t.Format("01-02 15:04:05"))
	}}
}

type process struct {
	env     *sim.Env
	machine *sim.Machine
	log     *sim.LineLog
}

func (p *process) run(ctx context.Context, args *cli.Args) int {
	if p.env.StartUp(ctx, []sim.Phase{{Lasts: importing, Lines: []string{"vLLM API server version " + version}}}, p.log.Print) != nil {
		return 1
	}
	set, err := resolve(args, p.machine)
	if err != nil {
		return p.refuse(err, false)
	}
	p.log.Printf("non-default args: {%s}", set.nonDefault())
	port, err := sim.Bind(set.host, set.port) // before the engine starts; clients are refused until it has
	if err != nil {
		return p.portError(err, set)
	}
	defer port.Close()
	children, err := p.env.Spawn(sim.SameGroup, "VLLM::EngineCore", "VLLM::Worker")
	if err != nil {
		fmt.Fprintln(p.env.Stderr, "sim-engine:", err)
		return 1
	}
	defer children.End()
	if err := set.fit(p.machine); err != nil {
		return p.refuse(err, true)
	}
	if p.env.StartUp(ctx, p.phases(set), p.log.Print) != nil {
		return 1
	}
	ln, err := port.Listen()
	if err != nil {
		return p.portError(err, set)
	}
	return p.serve(ctx, set, ln)
}

// refuse prints the traceback that ends a start; inCore when the engine's own process failed.
func (p *process) refuse(err error, inCore bool) int {
	w := p.env.Stderr
	fmt.Fprintf(w, "Traceback (most recent call last):\n  File \"/usr/local/bin/vllm\", line 10, in <module>\n    sys.exit(main())\n%s\n", err)
	if inCore {
		fmt.Fprintf(w, "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n")
	}
	return 1
}

func (p *process) portError(err error, set *settings) int {
	if sim.PortTaken(err) {
		err = fmt.Errorf("OSError: [Errno 98] Address already in use: ('%s', %d)", set.host, set.port)
	}
	return p.refuse(err, false)
}

func (p *process) phases(s *settings) []sim.Phase {
	gib := func(b float64) float64 { return b / (1 << 30) }
	compile := compiling
	graphs := []string{fmt.Sprintf("Graph capturing finished in 5 secs, took %.2f GiB", gib(s.memory.GraphBytes))}
	if s.layout.Eager {
		compile, graphs = 0, nil
	}
	took := (compile + warming).Seconds()
	return []sim.Phase{
		{Lines: []string{
			fmt.Sprintf("Chunked prefill is enabled with max_num_batched_tokens=%d.", s.core.MaxBatchedTokens),
			fmt.Sprintf("Initializing a V1 LLM engine (v%s) with config: model='%s', max_seq_len=%d, tensor_parallel_size=%d, kv_cache_dtype=%s, enable_prefix_caching=%s",
				version, s.model, s.core.MaxModelLen, s.layout.TP, s.kvDtype, pyBool(s.core.PrefixCaching)),
		}},
		{Lasts: loading, Lines: []string{fmt.Sprintf("Model loading took %.2f GiB memory and %.2f seconds", gib(s.memory.WeightBytes), loading.Seconds())}},
		{Lasts: compile, Lines: []string{
			fmt.Sprintf("Available KV cache memory: %.2f GiB", gib(s.memory.KVBytes)),
			fmt.Sprintf("GPU KV cache size: %s tokens", thousands(s.core.KVTokens)),
			fmt.Sprintf("Maximum concurrency for %s tokens per request: %.2fx", thousands(s.core.MaxModelLen), float64(s.core.KVTokens)/float64(s.core.MaxModelLen)),
		}},
		{Lasts: warming, Lines: append(graphs,
			fmt.Sprintf("init engine (profile, create kv cache, warmup model) took %.2f s (compilation: %.2f s)", took, compile.Seconds()),
			fmt.Sprintf("Starting vLLM server on http://%s:%d", s.host, s.port))},
	}
}

func (p *process) serve(ctx context.Context, set *settings, ln net.Listener) int {
	core, err := p.machine.Core(set.core, set.layout)
	if err != nil {
		return p.refuse(err, true)
	}
	srv := &server{set: set, metrics: newMetrics(set, time.Now()), output: p.env.Faults.Output, created: time.Now().Unix()}
	srv.engine = live.New(core, srv.metrics, p.env.Faults, p.env.Log)
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	go func() { srv.engine.Run(life); close(stopped) }()
	web := sim.Serve(ln, srv.handler(), keepAlive)
	p.log.Print("Application startup complete.")

	<-ctx.Done()
	p.drain(life, srv)
	kill()
	<-stopped
	web.Close()
	return 0
}

// drain is what SIGTERM does: with a timeout running requests finish while new ones are answered with
// nothing, /health stays 200, and once they are through new requests are refused; without a timeout
// everything is aborted.
func (p *process) drain(ctx context.Context, srv *server) {
	running := srv.engine.InFlight()
	srv.state.Store(int32(draining))
	end := leaving
	p.log.Print("[shutdown] API server: shutdown triggered")
	if srv.set.drain > 0 {
		p.log.Printf("[shutdown] draining %d requests, timeout %d s", running, srv.set.drain)
		if running > 0 {
			end = windingUp
		}
		limit, cancel := context.WithTimeout(ctx, time.Duration(srv.set.drain)*time.Second)
		defer cancel()
		sim.Poll(limit, 20*time.Millisecond, func() bool { return srv.inFlight.Load() == 0 })
	}
	srv.state.Store(int32(closed))
	if left := srv.engine.InFlight(); left > 0 {
		p.log.Printf("[shutdown] aborting %d requests", left)
		srv.engine.CancelAll()
	}
	p.env.StartUp(ctx, []sim.Phase{{Lasts: end, Lines: []string{"[shutdown] complete"}}}, p.log.Print)
}

// nonDefault lists the given flags as vLLM's log does.
func (s *settings) nonDefault() string {
	parts := []string{fmt.Sprintf("'model_tag': '%s'", s.model)}
	for _, f := range s.args.Given() {
		parts = append(parts, fmt.Sprintf("'%s': '%s'", strings.ReplaceAll(f, "-", "_"), mask(f, s.args.Text(f, ""))))
	}
	return strings.Join(parts, ", ")
}

func mask(flag, value string) string {
	if flag == "api-key" {
		return "***"
	}
	return value
}

// thousands writes n with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
