// Package expo writes metrics pages exactly as an engine's own Prometheus client does: order of
// labels and samples, number format, and when a series first appears differ between the Python
// client, its multiprocess mode and the Rust exporter, and parsers meet all three.
//
// It holds values and writes them; which metrics exist is the dialects' business. All methods may
// be called from any goroutine.
package expo

import (
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Style names the client library whose page is written.
type Style int

// The three client libraries.
const (
	Python       Style = iota // labels sorted, every family announced, _created gauges
	Multiprocess              // labels sorted, families without a series left out, no _created
	Rust                      // labels in the order given, whole numbers without a fraction
)

// Kind of a metric family, as the TYPE line names it.
type Kind string

// The kinds of the text format that engines use.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
	Summary   Kind = "summary"
)

// Registry is one metrics page.
type Registry struct {
	style   Style
	created float64 // Unix seconds, for the _created gauges of the Python client

	mu       sync.Mutex // guards families and everything below them
	families []*Family
}

// New makes an empty page; createdUnix is the time that _created gauges show.
func New(style Style, createdUnix float64) *Registry {
	return &Registry{style: style, created: createdUnix}
}

// Family is one metric name with all its series.
type Family struct {
	reg       *Registry
	name      string
	help      string
	kind      Kind
	bounds    []float64 // histograms: ascending, without +Inf
	quantiles []float64 // summaries
	order     []*Series
	byLabels  map[string]*Series
}

// Series is one family with fixed labels.
type Series struct {
	fam     *Family
	labels  string // name="value" pairs, comma separated
	buckets []string
	value   float64 // counters and gauges; else the sum
	count   uint64
	counts  []uint64 // per bucket (histogram), or per small whole number (summary)
}

// Counter declares a counter; name as exported, with any _total.
func (r *Registry) Counter(name, help string) *Family { return r.add(name, help, Counter, nil, nil) }

// Gauge declares a gauge.
func (r *Registry) Gauge(name, help string) *Family { return r.add(name, help, Gauge, nil, nil) }

// Histogram declares a histogram with ascending upper bounds; +Inf is added.
func (r *Registry) Histogram(name, help string, bounds []float64) *Family {
	return r.add(name, help, Histogram, bounds, nil)
}

// Summary declares a summary of small whole numbers; without quantiles only sum and count show.
func (r *Registry) Summary(name, help string, quantiles ...float64) *Family {
	return r.add(name, help, Summary, nil, quantiles)
}

func (r *Registry) add(name, help string, kind Kind, bounds, quantiles []float64) *Family {
	f := &Family{reg: r, name: name, help: help, kind: kind, bounds: bounds, quantiles: quantiles, byLabels: map[string]*Series{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.families = append(r.families, f)
	return f
}

// With returns the series with these labels (name, value, name, value…), making it on first use:
// from then on it is on the page.
func (f *Family) With(pairs ...string) *Series {
	key := strings.Join(pairs, "\x00")
	f.reg.mu.Lock()
	defer f.reg.mu.Unlock()
	if s := f.byLabels[key]; s != nil {
		return s
	}
	s := &Series{fam: f, labels: f.reg.style.labels(pairs)}
	switch f.kind {
	case Histogram:
		s.counts = make([]uint64, len(f.bounds)+1)
		for _, b := range append(slices.Clone(f.bounds), math.Inf(1)) {
			s.buckets = append(s.buckets, f.reg.style.labels(append(slices.Clone(pairs), "le", f.reg.style.number(b))))
		}
	case Summary:
		s.counts = make([]uint64, 65)
		for _, q := range f.quantiles {
			s.buckets = append(s.buckets, f.reg.style.labels(append(slices.Clone(pairs), "quantile", f.reg.style.number(q))))
		}
	}
	f.byLabels[key] = s
	f.order = append(f.order, s)
	return s
}

// Add increases a counter or gauge.
func (s *Series) Add(v float64) {
	s.fam.reg.mu.Lock()
	s.value += v
	s.fam.reg.mu.Unlock()
}

// Set gives a gauge its value.
func (s *Series) Set(v float64) {
	s.fam.reg.mu.Lock()
	s.value = v
	s.fam.reg.mu.Unlock()
}

// Observe records v once.
func (s *Series) Observe(v float64) { s.ObserveN(v, 1) }

// ObserveN records v n times.
func (s *Series) ObserveN(v float64, n int) {
	if n <= 0 {
		return
	}
	i := 0
	if s.fam.kind == Histogram {
		i, _ = slices.BinarySearch(s.fam.bounds, v)
	} else {
		i = min(max(int(v), 0), len(s.counts)-1)
	}
	s.fam.reg.mu.Lock()
	s.counts[i] += uint64(n)
	s.count += uint64(n)
	s.value += v * float64(n)
	s.fam.reg.mu.Unlock()
}

// Value returns a counter's or gauge's value, or the sum of a histogram or summary.
func (s *Series) Value() float64 {
	s.fam.reg.mu.Lock()
	defer s.fam.reg.mu.Unlock()
	return s.value
}

// Count returns the number of observations.
func (s *Series) Count() uint64 {
	s.fam.reg.mu.Lock()
	defer s.fam.reg.mu.Unlock()
	return s.count
}

// WriteTo writes the page in the text exposition format.
func (r *Registry) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r.page())
	return int64(n), err
}

// WriteOpenMetrics writes the page in OpenMetrics as Python's library does for clients that do not
// know of colons: TYPE and HELP lines keep them, without a counter's _total; the samples' names have
// underscores.
func (r *Registry) WriteOpenMetrics(w io.Writer) (int64, error) {
	var b strings.Builder
	for line := range strings.Lines(string(r.page())) {
		if kind, rest, _ := strings.Cut(line, " "); kind == "#" {
			word, rest, _ := strings.Cut(rest, " ")
			name, text, _ := strings.Cut(rest, " ")
			b.WriteString("# " + word + " " + strings.TrimSuffix(name, "_total") + " " + text)
			continue
		}
		name, rest, labelled := strings.Cut(line, "{")
		b.WriteString(strings.ReplaceAll(name, ":", "_"))
		if labelled {
			b.WriteString("{" + rest)
		}
	}
	b.WriteString("# EOF\n")
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func (r *Registry) page() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := make([]byte, 0, 64<<10)
	for _, f := range r.families {
		if len(f.order) == 0 && r.style != Python {
			continue
		}
		b = f.append(b)
		if r.style == Rust {
			b = append(b, '\n')
		}
	}
	return b
}

// labels renders pairs in the library's order.
func (st Style) labels(pairs []string) string {
	type label struct{ name, value string }
	ls := make([]label, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		ls = append(ls, label{pairs[i], pairs[i+1]})
	}
	if st != Rust {
		slices.SortFunc(ls, func(a, b label) int { return strings.Compare(a.name, b.name) })
	}
	var sb strings.Builder
	for i, l := range ls {
		if i > 0 {
			sb.WriteByte(',')
		}
		sb.WriteString(l.name + `="` + escape.Replace(l.value) + `"`)
	}
	return sb.String()
}

var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (st Style) number(v float64) string { return string(st.appendNumber(nil, v)) }

func (st Style) appendNumber(b []byte, v float64) []byte {
	switch {
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case math.IsNaN(v):
		return append(b, "NaN"...)
	case v == math.Trunc(v) && math.Abs(v) < 1e6:
		b = strconv.AppendInt(b, int64(v), 10)
		if st != Rust {
			b = append(b, ".0"...)
		}
		return b
	case st == Rust:
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}
