package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// finding is one thing that doctor looked at.
type finding struct {
	ok   bool
	what string
	// cost is what goes without it; empty when it is fine.
	cost string
	// fatal: the agent would not start.
	fatal bool
}

func works(format string, args ...any) finding {
	return finding{ok: true, what: fmt.Sprintf(format, args...)}
}

func lacks(cost, format string, args ...any) finding {
	return finding{what: fmt.Sprintf(format, args...), cost: cost}
}

// examine looks at everything that an agent with this configuration would use. It changes nothing
// and may be run beside a running agent.
func examine(ctx context.Context, cfg Config) []finding {
	out := []finding{examineDataDir(cfg.DataDir)}
	host, err := newAdapters(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return append(out, finding{what: err.Error(), cost: "the agent does not start", fatal: true})
	}
	defer func() { _ = host.Close() }() // it has nothing to report
	out = append(out, examinePlugins(ctx, host)...)
	out = append(out, examineWire(cfg))
	out = append(out, examineGPUs(ctx, cfg)...)
	for _, e := range cfg.Engines {
		out = append(out, examineEngine(ctx, e, host)...)
	}
	return append(out, examineControlPlane(ctx, cfg)...)
}

func examineDataDir(path string) finding {
	dir, err := openDataDir(path)
	switch {
	case errors.Is(err, errShared):
		return works("data folder %s is in use by a running agent", path)
	case err != nil:
		return finding{what: err.Error(), cost: "the agent does not start", fatal: true}
	}
	dir.Close()
	return works("data folder %s can be written", path)
}

func examinePlugins(ctx context.Context, host adapters) (out []finding) {
	const cost = "engines that need it are watched by their health alone and cannot be tuned"
	names := host.Names()
	if len(names) == 0 {
		return []finding{lacks("no engine can be described or tuned", "there are no engine adapters in the plugin folder; `make build` puts them beside the program")}
	}
	for _, name := range names {
		if _, err := host.Adapter(ctx, name); err != nil {
			out = append(out, lacks(cost, "adapter %s: %v", name, err))
			continue
		}
		out = append(out, works("adapter %s is verified and starts", name))
	}
	return out
}

func examineEngine(ctx context.Context, e Engine, host adapters) (out []finding) {
	var launcher probation.Launcher = noLauncher{}
	switch {
	case e.Launcher == "":
		out = append(out, lacks("it is observed and can be taken out of rotation, but no configuration can be tried", "engine %s has no launcher", e.Name))
	default:
		client := launch.Dial(e.Launcher)
		defer client.Close()
		launcher = client
		out = append(out, examineLauncher(ctx, e, client))
	}
	a := &engineAdapter{all: host, launcher: launcher, url: e.URL, name: e.Engine}
	d, _, _, err := a.describe(ctx)
	switch {
	case err != nil:
		out = append(out, lacks("it is watched by its health alone and cannot be tuned", "engine %s cannot be described: %v", e.Name, err))
	case !engine.Recognized(d):
		out = append(out, lacks("its settings and signals are guesses until it does", "engine %s does not show that it is %s", e.Name, d.GetEngine()))
	default:
		out = append(out, works("engine %s is %s %s with model %q", e.Name, d.GetEngine(), d.GetVersion(), d.GetModel()))
	}
	for _, w := range d.GetWarnings() {
		out = append(out, lacks("", "engine %s: %s", e.Name, w))
	}
	return append(out, examineHealth(ctx, e, a))
}

func examineLauncher(ctx context.Context, e Engine, client *launch.Client) finding {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	s, err := client.Status(ctx)
	if err != nil {
		return lacks("no configuration can be tried on it", "engine %s: %v", e.Name, err)
	}
	return works("engine %s: its launcher answers, the process is %s (%s)", e.Name, s.State, strings.Join(s.Current.Argv, " "))
}

func examineHealth(ctx context.Context, e Engine, a *engineAdapter) finding {
	p := probation.NewHTTPProber(e.URL, a.probes)
	if health, why := p.Health(ctx); health != probation.Healthy {
		return lacks("it stays out of rotation until it is well", "engine %s at %s: %s", e.Name, e.URL, why)
	}
	return works("engine %s at %s is healthy", e.Name, e.URL)
}

func examineControlPlane(ctx context.Context, cfg Config) (out []finding) {
	if len(cfg.ControlPlane) == 0 {
		return []finding{lacks("engines are observed and guarded, and nothing is tuned", "no control plane is configured")}
	}
	for _, addr := range cfg.ControlPlane {
		d := net.Dialer{Timeout: 3 * time.Second}
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			out = append(out, lacks("the agent uses the other nodes, or guards alone", "control plane %s: %v", addr, err))
			continue
		}
		conn.Close()
		out = append(out, works("control plane %s can be reached", addr))
	}
	return out
}

// tell prints findings and reports whether an agent would start.
func tell(w io.Writer, findings []finding) (starts bool) {
	starts = true
	for _, f := range findings {
		mark := "ok  "
		if !f.ok {
			mark = "no  "
		}
		starts = starts && !f.fatal
		fmt.Fprintf(w, "%s%s\n", mark, f.what)
		if f.cost != "" {
			fmt.Fprintf(w, "      without it: %s\n", f.cost)
		}
	}
	return starts
}
