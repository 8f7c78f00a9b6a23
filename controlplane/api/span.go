package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Selection of engines; empty fields select all.
type Selection struct {
	Group  string `query:"group" doc:"engines of a group"`
	Agent  string `query:"agent" doc:"engines that an agent looks after, by the agent's id"`
	Engine string `query:"engine" doc:"one engine, by id or name"`
}

// spanInput selects whose telemetry and how much of it.
type spanInput struct {
	Selection
	WindowSeconds float64   `query:"window_seconds" minimum:"1" maximum:"2592000" default:"60" doc:"length of the span that ends now, or at to"`
	From          time.Time `query:"from" doc:"begin of the span, RFC 3339; instead of window_seconds"`
	To            time.Time `query:"to" doc:"end of the span, RFC 3339; now when absent"`
	Percentiles   string    `query:"percentiles" example:"50,90,99.9" doc:"further percentiles of latencies, between 0 and 100"`
}

// Span tells what an answer covers, where its figures come from and how fresh they are.
type Span struct {
	Group     string    `json:"group,omitempty"`
	Agent     string    `json:"agent,omitempty"`
	Engine    string    `json:"engine,omitempty"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Engines   int       `json:"engines" doc:"engines with telemetry in the span"`
	Windows   int       `json:"windows" doc:"engine-seconds of telemetry"`
	StaleSecs int       `json:"stale_seconds" doc:"engine-seconds whose source had gone stale"`
	// Basis of the figures.
	Basis string `json:"basis" enum:"windows,history" doc:"windows: of one second, quantiles right to 1 %; history: samples of every ten seconds, or five minutes where older, quantiles right to 3 %"`
	// Silent engines were asked for and told nothing.
	Silent []string `json:"silent_engines,omitempty" doc:"engines asked for without telemetry in the span, 20 at most"`
	// Sources of the figures below, by their name.
	Sources map[string]string `json:"sources,omitempty" doc:"who measured each figure: engine, probe (seen on the wire), host, gpu or mixed"`
	// Freshness now, by source.
	Freshness map[string]Freshness `json:"freshness,omitempty"`
}

// Freshness of one source over the engines of an answer, now.
type Freshness struct {
	Engines    int     `json:"engines" doc:"engines that have this source"`
	AgeSeconds float64 `json:"age_seconds" doc:"since it last answered, of the engine where that is longest ago"`
	Stale      int     `json:"stale_engines"`
	Reason     string  `json:"reason,omitempty" doc:"why it is stale, of one of them"`
}

// aggregate of a span, from recent windows where they reach far enough, else from history.
func (s *Server) aggregate(in *spanInput) (Span, *fleet.Aggregate, error) {
	ids, err := s.selectEngines(in.Selection)
	if err != nil {
		return Span{}, nil, err
	}
	from, to, err := in.limits(time.Now())
	if err != nil {
		return Span{}, nil, err
	}
	span := Span{Group: in.Group, Agent: in.Agent, Engine: in.Engine, From: from.UTC(), To: to.UTC(), Basis: "windows"}
	read := s.telemetry.Aggregate
	if time.Since(from) > recentWindows {
		span.Basis, read = "history", s.history.Aggregate
	}
	a, err := read(ids, from, to)
	if err != nil {
		return Span{}, nil, fromError(err)
	}
	span.Engines, span.Windows, span.StaleSecs = len(a.Instances), a.Windows, a.StaleSecs
	for _, id := range ids {
		if a.Instances[id] == 0 && len(span.Silent) < 20 {
			span.Silent = append(span.Silent, id)
		}
	}
	span.Freshness = s.freshness(ids)
	return span, a, nil
}

// recentWindows is how far back one-second windows are asked for; what is older comes from history.
const recentWindows = 9 * time.Minute

func (in *spanInput) limits(now time.Time) (from, to time.Time, err error) {
	to = in.To
	if to.IsZero() || to.After(now) {
		to = now
	}
	to = to.Truncate(time.Second)
	from = in.From.Truncate(time.Second)
	if in.From.IsZero() {
		from = to.Add(-time.Duration(in.WindowSeconds * float64(time.Second)))
	}
	if !from.Before(to) {
		return from, to, newProblem(http.StatusUnprocessableEntity, fmt.Sprintf("from %s is not before to %s", from.Format(time.RFC3339), to.Format(time.RFC3339)))
	}
	return from, to, nil
}

func (s *Server) selectEngines(sel Selection) ([]string, error) {
	if sel.Engine != "" {
		in, err := s.findEngine(sel.Engine)
		if err != nil {
			return nil, err
		}
		return []string{in.GetId()}, nil
	}
	if sel.Group != "" && s.machine.Group(sel.Group) == nil {
		return nil, notFound("group", sel.Group)
	}
	all := s.machine.Instances(sel.Group)
	if sel.Agent != "" {
		all = slices.DeleteFunc(all, func(in *commandv1.Instance) bool { return in.GetAgentId() != sel.Agent })
		if len(all) == 0 {
			return nil, notFound("agent with such engines", sel.Agent)
		}
	}
	return serving(all), nil
}

// freshness of sources, by the newest windows of the engines.
func (s *Server) freshness(ids []string) map[string]Freshness {
	found := map[string]Freshness{}
	for _, id := range ids {
		w := s.telemetry.Latest(id)
		if w == nil {
			continue
		}
		// A window that has not come adds to the age that it tells.
		late := max(0, time.Since(w.Start.Add(time.Second)).Seconds())
		for _, src := range w.Sources {
			f := found[src.GetName()]
			f.Engines++
			f.AgeSeconds = max(f.AgeSeconds, late+float64(src.GetAgeMs())/1000)
			if src.GetStale() {
				f.Stale++
				f.Reason = src.GetError()
			}
			found[src.GetName()] = f
		}
	}
	return found
}

// sources of figures, which are named by their JSON name.
func sources(a *fleet.Aggregate, metrics map[string]string) map[string]string {
	found := map[string]string{}
	for _, figure := range slices.Sorted(maps.Keys(metrics)) {
		if src := a.SourceOf(metrics[figure]); src != "" {
			found[figure] = src
		}
	}
	return found
}

// percentiles that the request asks for, as JSON names and shares.
func (in *spanInput) percentiles() (map[string]float64, error) {
	found := map[string]float64{}
	for _, text := range strings.Split(in.Percentiles, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := strconv.ParseFloat(text, 64)
		if err != nil || !(p > 0 && p < 100) || len(found) >= 20 {
			return nil, newProblem(http.StatusUnprocessableEntity, "percentiles: "+text+" is no number between 0 and 100, or there are more than twenty")
		}
		found["p"+text] = p / 100
	}
	return found, nil
}
