package workload

import (
	"archive/tar"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServeGen is traffic described client by client, as the ServeGen archives hold it: for windows of ten
// minutes how each client's requests arrive, and for longer windows how long they are.
type ServeGen struct {
	Clients []ServeGenClient // in order of their names
}

// ServeGenClient is one of them.
type ServeGenClient struct {
	Name    string
	Windows []ServeGenWindow // in order of time; a client may be silent in some
	Lengths []ServeGenLengths
}

// ServeGenWindow is how requests arrive from a time on until the next window begins.
type ServeGenWindow struct {
	From time.Duration
	Rate float64 // requests per second
	CV   float64
	Gaps Gaps
}

// ServeGenLengths are distributions of tokens that hold from a time on.
type ServeGenLengths struct {
	From           time.Duration
	Prompt, Output Quantiles
}

// Bounds of what an archive may hold, so that a hostile one cannot fill the memory.
const (
	maxMember  = 64 << 20
	maxArchive = 1 << 30
)

// ReadServeGen reads a gzipped tar of chunk-N-trace.csv and chunk-N-dataset.json, one pair for each
// client. A client without one of the two is left out, as are those that never send.
func ReadServeGen(r io.Reader) (*ServeGen, error) {
	zipped, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	members := tar.NewReader(io.LimitReader(zipped, maxArchive))
	clients := map[string]*ServeGenClient{}
	for {
		header, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if err := readMember(clients, header.Name, io.LimitReader(members, maxMember)); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrFormat, header.Name, err)
		}
	}
	g := &ServeGen{}
	for _, c := range clients {
		if slices.ContainsFunc(c.Windows, func(w ServeGenWindow) bool { return w.Rate > 0 }) && len(c.Lengths) > 0 {
			g.Clients = append(g.Clients, *c)
		}
	}
	slices.SortFunc(g.Clients, func(a, b ServeGenClient) int { return strings.Compare(a.Name, b.Name) })
	if len(g.Clients) == 0 {
		return nil, fmt.Errorf("%w: no client with both arrivals and lengths", ErrFormat)
	}
	return g, nil
}

func readMember(clients map[string]*ServeGenClient, name string, r io.Reader) (err error) {
	base := path.Base(name)
	client, kind := "", ""
	for _, suffix := range []string{"-trace.csv", "-dataset.json"} {
		if c, ok := strings.CutSuffix(base, suffix); ok {
			client, kind = c, suffix
		}
	}
	if kind == "" {
		return nil // folders and whatever else is there
	}
	c := clients[client]
	if c == nil {
		c = &ServeGenClient{Name: client}
		clients[client] = c
	}
	if kind == "-trace.csv" {
		c.Windows, err = serveGenWindows(r)
	} else {
		c.Lengths, err = serveGenLengths(r)
	}
	return err
}

// serveGenWindows reads start in seconds, rate, variation, family and two parameters, of which the
// variation tells as much.
func serveGenWindows(r io.Reader) (all []ServeGenWindow, err error) {
	lines := csv.NewReader(bounded(r))
	lines.FieldsPerRecord, lines.ReuseRecord = 6, true
	for {
		record, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		w, err := serveGenWindow(record)
		if err == nil && len(all) > 0 && w.From <= all[len(all)-1].From {
			err = fmt.Errorf("begins at %s, not after the one before", w.From)
		}
		if err != nil {
			line, _ := lines.FieldPos(0)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		all = append(all, w)
	}
}

func serveGenWindow(record []string) (w ServeGenWindow, err error) {
	start, err1 := strconv.ParseFloat(record[0], 64)
	w.Rate, err = strconv.ParseFloat(record[1], 64)
	if err := errors.Join(err1, err); err != nil {
		return w, err
	}
	if !(start >= 0 && start < latest) || !(w.Rate >= 0 && w.Rate < 1e6) {
		return w, fmt.Errorf("%g requests per second at %g s", w.Rate, start)
	}
	w.From = time.Duration(start * float64(time.Second))
	if w.Rate == 0 {
		return w, nil
	}
	if w.CV, err = strconv.ParseFloat(record[2], 64); err != nil || !(w.CV >= 0 && w.CV <= mostCV) {
		return w, fmt.Errorf("variation %q", record[2])
	}
	switch record[3] {
	case "Gamma", "Exponential", "":
	case "Weibull":
		w.Gaps = WeibullGaps
	default:
		return w, fmt.Errorf("family of gaps %q", record[3])
	}
	return w, nil
}

// serveGenLengths reads distributions by the second from which they hold. Each is written as a Python
// dictionary of tokens and shares.
func serveGenLengths(r io.Reader) (all []ServeGenLengths, err error) {
	var doc map[string]struct {
		Input  string `json:"input_tokens"`
		Output string `json:"output_tokens"`
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return nil, err
	}
	for start, d := range doc {
		at, err := strconv.ParseFloat(start, 64)
		if err != nil || !(at >= 0 && at < latest) {
			return nil, fmt.Errorf("window %q", start)
		}
		l := ServeGenLengths{From: time.Duration(at * float64(time.Second))}
		if l.Prompt, err = parsePDF(d.Input); err != nil {
			return nil, fmt.Errorf("window %s: input_tokens: %w", start, err)
		}
		if l.Output, err = parsePDF(d.Output); err != nil {
			return nil, fmt.Errorf("window %s: output_tokens: %w", start, err)
		}
		if len(l.Prompt) > 0 && len(l.Output) > 0 {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b ServeGenLengths) int { return int(a.From/time.Second) - int(b.From/time.Second) })
	return all, nil
}

// parsePDF reads "{50: 0.04, 51: 0.08}" as a distribution, nil when it is empty.
func parsePDF(text string) (Quantiles, error) {
	text = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(text), "{"), "}")
	type point struct{ tokens, share float64 }
	var points []point
	total := 0.
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, ":")
		tokens, err1 := strconv.ParseFloat(strings.TrimSpace(key), 64)
		share, err2 := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if !(tokens >= 0 && tokens <= maxTokens) || !(share >= 0) || math.IsInf(share, 0) {
			return nil, fmt.Errorf("%g tokens with share %g", tokens, share)
		}
		if share > 0 {
			points, total = append(points, point{max(tokens, 1), share}), total+share
		}
	}
	slices.SortFunc(points, func(a, b point) int { return int(a.tokens) - int(b.tokens) })
	steps := Quantiles{}
	below := 0.
	for _, p := range points {
		steps = steps.atom(below/total, p.tokens)
		below += p.share
		steps = steps.atom(math.Min(below/total, 1), p.tokens)
	}
	if n := len(steps); n > 0 {
		steps[n-1].P = 1
	}
	return steps, nil
}

// stepWidth is the share over which a distribution of single values rises from one to the next.
const stepWidth = 1e-9

// atom adds a point, a little after the last where both have one probability.
func (q Quantiles) atom(p, tokens float64) Quantiles {
	if n := len(q); n > 0 && p <= q[n-1].P {
		p = q[n-1].P + stepWidth
	}
	return append(q, Quantile{P: p, Tokens: tokens})
}

// Generate makes the traffic of a span of the day, all clients together, with every rate multiplied by a
// factor. Equal arguments give equal traces.
func (g *ServeGen) Generate(from, span time.Duration, factor float64, seed uint64) ([]Request, error) {
	if span <= 0 || factor <= 0 {
		return nil, fmt.Errorf("%w: %s of traffic at %g times its rate", ErrSpec, span, factor)
	}
	var trace []Request
	for i, c := range g.Clients {
		own, err := c.generate(from, span, factor, seed+uint64(i)<<32)
		if err != nil {
			return nil, fmt.Errorf("client %s: %w", c.Name, err)
		}
		trace = append(trace, own...)
	}
	slices.SortStableFunc(trace, func(a, b Request) int { return int(a.Offset - b.Offset) })
	return trace, nil
}

// generate draws each window's arrivals by its own process.
func (c ServeGenClient) generate(from, span time.Duration, factor float64, seed uint64) (trace []Request, err error) {
	for i, w := range c.Windows {
		begin, end := w.From, from+span
		if i+1 < len(c.Windows) {
			end = min(end, c.Windows[i+1].From)
		}
		begin = max(begin, from)
		if w.Rate == 0 || begin >= end {
			continue
		}
		some, err := w.fill(end-begin, factor, c.lengthsAt(begin), seed+uint64(i))
		if err != nil {
			return nil, fmt.Errorf("window at %s: %w", w.From, err)
		}
		for _, r := range some {
			r.Offset += begin - from
			r.Client = c.Name
			trace = append(trace, r)
		}
	}
	return trace, nil
}

// fill spreads as many requests as the rate says over a window, their gaps to scale. A bursty process left
// to itself would begin each window with a burst and so send too many.
func (w ServeGenWindow) fill(span time.Duration, factor float64, lengths ServeGenLengths, seed uint64) ([]Request, error) {
	mean := w.Rate * factor * span.Seconds()
	n := int(mean + stream(seed, 4).Float64()) // rounded up as often as the remainder says
	if n == 0 {
		return nil, nil
	}
	some, err := Generate(Spec{
		Arrivals: Arrivals{Rate: w.Rate * factor, CV: w.CV, Gaps: w.Gaps}, Prompt: lengths.Prompt, Output: lengths.Output, Count: n + 1,
	}, seed)
	if err != nil {
		return nil, err
	}
	if last := some[n].Offset; last > 0 {
		some = Scale(some, float64(last)/float64(span))
	}
	for i := range some {
		some[i].Offset = min(some[i].Offset, span-1)
	}
	return some[:n], nil
}

// lengthsAt are the distributions that hold at a time, the first ones before any does.
func (c ServeGenClient) lengthsAt(at time.Duration) ServeGenLengths {
	held := c.Lengths[0]
	for _, l := range c.Lengths {
		if l.From <= at {
			held = l
		}
	}
	return held
}
