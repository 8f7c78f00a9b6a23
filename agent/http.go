package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// routes of the sidecar's own server. /ready is the pod's readiness: while an engine is out of
// rotation it answers 503, and whoever balances sends elsewhere. /live never depends on the engine,
// which may be down for minutes because we restart it.
func (a *agent) routes(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", a.ready)
	mux.HandleFunc("GET /ready/{engine}", a.readyOne)
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /status", a.status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

// registry of what GET /metrics shows.
func (a *agent) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(newExporter(a))
	return r
}

// ready is 200 while every engine is in rotation.
func (a *agent) ready(w http.ResponseWriter, _ *http.Request) {
	var out []string
	for _, in := range a.instances {
		if ok, why := in.machine.Serving(); !ok {
			out = append(out, in.cfg.Name+": "+why)
		}
	}
	answerReady(w, strings.Join(out, "\n"))
}

// readyOne is about one engine of a node agent.
func (a *agent) readyOne(w http.ResponseWriter, r *http.Request) {
	in := a.byID[a.id+"/"+r.PathValue("engine")]
	if in == nil {
		http.Error(w, fmt.Sprintf("no engine %q here; there is %s", r.PathValue("engine"), a.instanceNames()), http.StatusNotFound)
		return
	}
	_, why := in.machine.Serving()
	answerReady(w, why)
}

// answerReady says why not, or that all is well when there is no reason.
func answerReady(w http.ResponseWriter, why string) {
	w.Header().Set("Cache-Control", "no-store")
	if why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (a *agent) status(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(a.report()) // the reader went away
}
