package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/probe"
)

// wire observes the requests of all engines of this agent. Nil is one that observes nothing.
type wire struct {
	observer *probe.Observer
	log      *slog.Logger
	at       map[string]probe.Endpoint // by engine name
}

// openWire starts to observe, where this process has the rights; elsewhere it says once what is
// missing, and the engines' metrics serve instead.
func openWire(cfg Config, log *slog.Logger) *wire {
	if cfg.Wire == probe.ModeOff {
		return nil
	}
	w, err := newWire(cfg, log)
	if err != nil {
		log.Warn("requests are not seen on the wire; the engine's own metrics serve instead", "reason", err)
		return nil
	}
	log.Info("requests are seen on the wire", "mode", w.observer.Mode(), "engines", len(w.at))
	return w
}

func newWire(cfg Config, log *slog.Logger) (*wire, error) {
	at, err := endpoints(cfg.Engines)
	if err != nil {
		return nil, err
	}
	var all []probe.Endpoint
	for _, e := range cfg.Engines {
		all = append(all, at[e.Name])
	}
	c := probe.DefaultConfig(all...)
	c.Mode = cfg.Wire
	observer, err := probe.Open(c, log)
	if err != nil {
		return nil, err
	}
	return &wire{observer: observer, log: log, at: at}, nil
}

// endpoints tells where engines listen. The port is enough unless engines share it, each at its own
// address.
func endpoints(engines []Engine) (map[string]probe.Endpoint, error) {
	at, users := map[string]probe.Endpoint{}, map[uint16]int{}
	for _, e := range engines {
		u, err := url.Parse(e.URL)
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", e.Name, err)
		}
		if u.Scheme == "https" {
			return nil, fmt.Errorf("engine %s speaks TLS, which the wire does not show", e.Name)
		}
		port, err := strconv.ParseUint(orElse(u.Port(), "80"), 10, 16)
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", e.Name, err)
		}
		addr, _ := netip.ParseAddr(u.Hostname()) // a name is no address: the zero value is any
		at[e.Name] = probe.Endpoint{Addr: addr.Unmap(), Port: uint16(port)}
		users[uint16(port)]++
	}
	for name, e := range at {
		switch {
		case users[e.Port] == 1:
			at[name] = probe.Endpoint{Port: e.Port}
		case !e.Addr.IsValid():
			return nil, fmt.Errorf("engine %s shares port %d with another and is not named by its address", name, e.Port)
		}
	}
	return at, nil
}

// source of one engine; nil where nothing is observed.
func (w *wire) source(e Engine) *collect.Wire {
	if w == nil {
		return nil
	}
	return collect.NewWire(w.observer, w.at[e.Name])
}

// run reads events until ctx ends. Should that fail, the agent goes on without.
func (w *wire) run(ctx context.Context) error {
	if w == nil {
		return nil
	}
	if err := w.observer.Run(ctx); err != nil {
		w.log.Error("requests are no longer seen on the wire; the engine's own metrics serve instead", "error", err)
	}
	return nil
}

// close stops observing.
func (w *wire) close() {
	if w == nil {
		return
	}
	if err := w.observer.Close(); err != nil {
		w.log.Warn("the observer could not be unloaded whole", "error", err)
	}
}

// examineWire says whether requests could be seen on the wire.
func examineWire(cfg Config) finding {
	const cost = "latencies come from the engine's histograms: coarser, later, and blind to requests that hang"
	mode, err := probe.Check(cfg.Wire)
	switch {
	case cfg.Wire == probe.ModeOff:
		return lacks(cost, "requests are not seen on the wire: wire is off")
	case err != nil:
		return lacks(cost, "%v", err)
	}
	if _, err := endpoints(cfg.Engines); err != nil {
		return lacks(cost, "requests are not seen on the wire: %v", err)
	}
	return works("requests can be seen on the wire, in mode %s", mode)
}

// wireExporter shows what the observer could not see, and why.
type wireExporter struct {
	observing, connections, hidden, lost, dropped, overBound *prometheus.Desc
}

func newWireExporter() wireExporter {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("perf_agent_wire_"+name, help, labels, nil)
	}
	return wireExporter{
		observing:   desc("observing", "1 while requests are seen on the wire."),
		connections: desc("connections_total", "Connections seen.", "port"),
		hidden:      desc("hidden_connections_total", "Connections that cannot be looked into.", "port", "protocol"),
		lost:        desc("lost_requests_total", "Requests whose end was missed, on any port: bytes or events were."),
		dropped:     desc("dropped_events_total", "Events that found the buffer full.", "port"),
		overBound:   desc("over_bound_connections_total", "Connections opened while as many were open as are kept.", "port"),
	}
}

func (e wireExporter) collect(ch chan<- prometheus.Metric, w *wire) {
	gauge(ch, e.observing, bit(w != nil))
	if w == nil {
		return
	}
	seen, lost := map[uint16]bool{}, uint64(0)
	for _, at := range w.at {
		if seen[at.Port] {
			continue
		}
		seen[at.Port] = true
		c, err := w.observer.Counts(at.Port)
		if err != nil {
			w.log.Warn("the observer's counts cannot be read", "error", err)
			continue
		}
		port := strconv.Itoa(int(at.Port))
		counter(ch, e.connections, float64(c.Connections), port)
		counter(ch, e.hidden, float64(c.TLS), port, "tls")
		counter(ch, e.hidden, float64(c.HTTP2), port, "http2")
		counter(ch, e.hidden, float64(c.Foreign+c.Upgrade), port, "other")
		counter(ch, e.dropped, float64(c.Dropped), port)
		counter(ch, e.overBound, float64(c.OverBound), port)
		lost = c.LostRequests
	}
	counter(ch, e.lost, float64(lost))
}
