// Package enginetest checks any engine adapter over the real gRPC wire: that it describes an engine
// which is down, slow or serving, that its knob tables are sound for every release it names, that
// command lines survive a round trip, and that metric pages and failure logs are understood as the
// golden files beside them say.
//
// An adapter's test is one call of Run. Its testdata folder holds
//
//	<version>[-variant].prom   a metrics page; .golden: the signals read from it. Where there is a
//	                           .later.prom beside it, .signals.json holds the signal map, for the
//	                           tests of what a window makes of the two pages
//	knobs-<version>.golden     the knob table of each release in Options.Versions
//	failures/<name>.log        a log; .golden: what it is explained as. A name that begins with
//	                           "clean" must be explained as nothing.
//
// Golden files are written anew by go test -update.
package enginetest

import (
	"context"
	"flag"
	"net"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

var update = flag.Bool("update", false, "write the golden files of engine adapters anew")

// Options say what is special about one adapter.
type Options struct {
	// Engine is the name that Describe must give.
	Engine string
	// Argv is a usual command line of the engine, with some knobs and some flags that are no knobs.
	Argv []string
	// Keep are the tokens of Argv that must survive any settings, in this order.
	Keep []string
	// Env is the engine's environment; usually empty.
	Env map[string]string
	// Versions are the releases whose tables are checked; the last one is the newest.
	Versions []string
	// Stub serves what Describe asks of an engine of this version that exposes this page.
	Stub func(version string, page []byte) http.Handler
	// PageArgv is what the command line has beside Argv where a page was served, by the page's name.
	PageArgv map[string][]string
	// Settings are judged one by one.
	Settings []SettingsCase
	// Testdata folder; "testdata" when empty.
	Testdata string
}

// SettingsCase is one set of settings and the problems that Validate must find.
type SettingsCase struct {
	Name     string
	Version  string   // the newest of Options.Versions when empty
	Argv     []string // Options.Argv when nil
	Env      map[string]string
	Settings engine.Settings
	Want     []string // "knob: code", in order; nil: accepted
	Words    string   // must occur in the first problem's message
}

// Run checks an adapter. It is the whole test of a usual adapter.
func Run(t *testing.T, a engine.Adapter, o Options) {
	if o.Testdata == "" {
		o.Testdata = "testdata"
	}
	s := &suite{adapter: Wire(t, a), Options: o}
	t.Run("describe", s.describe)
	t.Run("pages", s.pages)
	t.Run("tables", s.tables)
	t.Run("settings", s.settings)
	t.Run("command", s.command)
	t.Run("apply", s.apply)
	t.Run("failures", s.failures)
}

// Wire serves an adapter by gRPC on a loopback port and returns the client's side. What go-plugin
// adds around it is the host's to test.
func Wire(t testing.TB, a engine.Adapter) engine.Adapter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	server := grpc.NewServer()
	engine.Register(server, a)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return engine.NewClient(conn)
}

type suite struct {
	Options
	adapter engine.Adapter
}

func (s *suite) newest() string { return s.Versions[len(s.Versions)-1] }

// target is the engine with the usual command line and no server.
func (s *suite) target(version string) *engine.Target {
	return &engine.Target{Argv: s.Argv, Env: s.Env, Version: version}
}

func (s *suite) mustDescribe(t *testing.T, target *engine.Target) *engine.Description {
	t.Helper()
	d, err := s.adapter.Describe(t.Context(), target)
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	if d.GetEngine() != s.Engine {
		t.Fatalf("engine %q, want %q", d.GetEngine(), s.Engine)
	}
	return d
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
