// Package scrape fetches an engine's metrics page and parses it. It knows HTTP and the two text
// formats that engines speak; what a series means is the adapter's business, and what changed
// between two pages is collect's.
//
// An engine's page is foreign input: anything on it that cannot be used is dropped and counted,
// and the rest of the page still serves.
package scrape

import (
	"bytes"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Page is what one scrape brought.
type Page struct {
	// Families by name as on the page: a counter with its _total suffix, a histogram without
	// _bucket. Only usable samples are left: finite, not negative where they count something, and
	// each label set once.
	Families map[string]*dto.MetricFamily
	// Dropped counts samples and whole families that could not be used, and the lines of families that
	// were too long.
	Dropped int
	// Others counts samples of families that nobody asked for.
	Others int
	// Load holds live counts from the engine's load endpoint; nil when it has none or did not
	// answer, and LoadProblem then says why it did not.
	Load        *Load
	LoadProblem string
	// Problem says why there is no metrics page but only a load.
	Problem string
	// At is when the answer began, by our clock, Took how long all of it took.
	At   time.Time
	Took time.Duration
}

// Parser turns page bodies into families. It keeps only the families it was asked for, before
// parsing, because a page may carry thousands of lines of no interest. Not safe for concurrent
// use; its buffers are used again for the next page.
type Parser struct {
	wanted map[string]string // names by what a page may call them; nil: all
	others int
	parts  map[string]*part
	// gathered lines of the page, those of families that proved too long among them.
	gathered int
	text     expfmt.TextParser
	reader   bytes.Reader
	seed     maphash.Seed
}

// Bounds of what is parsed: lines of one family, and of a page. Genuine families have a few thousand at
// most. What grows beyond is dropped whole and counted, since half a histogram would be a wrong one: a
// page of the largest size, all of it wanted, would take a gigabyte.
const (
	maxFamilyLines = 20_000
	maxPageLines   = 100_000
)

// keptBytes is the largest buffer that is kept for the next page.
const keptBytes = 1 << 20

// part gathers the lines of one family.
type part struct {
	lines bytes.Buffer
	typed bool
	n     int  // lines on the page
	over  bool // they are too many, and not gathered
}

// clear for the next page.
func (p *part) clear() {
	p.lines.Reset()
	if p.lines.Cap() > keptBytes {
		p.lines = bytes.Buffer{}
	}
	p.typed, p.n, p.over = false, 0, false
}

// take counts a line and says whether it is to be gathered; room is how many more the page may have.
func (p *part) take(room int) bool {
	p.n++
	if !p.over && (p.n > maxFamilyLines || room <= 0) {
		p.over = true
		p.lines = bytes.Buffer{}
	}
	return !p.over
}

// NewParser returns a parser that keeps the named families; without names it keeps all. A name with
// a colon is also found where the colon became an underscore, as it does in an escaped OpenMetrics
// page, and where Ray exports it.
func NewParser(series []string) *Parser {
	p := &Parser{parts: map[string]*part{}, text: expfmt.NewTextParser(model.UTF8Validation), seed: maphash.MakeSeed()}
	if len(series) > 0 {
		p.wanted = make(map[string]string, len(series))
		for _, s := range series {
			plain := strings.ReplaceAll(s, ":", "_")
			p.wanted[s], p.wanted[plain] = s, s
			if plain != s {
				p.wanted["ray_"+plain] = s
			}
		}
	}
	return p
}

// Parse reads a body in the Prometheus text format or, which is rewritten line by line, in
// OpenMetrics.
func (p *Parser) Parse(body []byte) (families map[string]*dto.MetricFamily, dropped int) {
	for name, part := range p.parts {
		if part.lines.Len() == 0 {
			delete(p.parts, name) // not on the last page either
		}
		part.clear()
	}
	p.others, p.gathered = 0, 0
	types := map[string]string{}
	for len(body) > 0 {
		var line []byte
		line, body, _ = bytes.Cut(body, []byte{'\n'})
		p.sort(bytes.TrimRight(line, "\r"), types)
	}
	families = make(map[string]*dto.MetricFamily, len(p.parts))
	for name, part := range p.parts {
		if part.over {
			dropped += part.n
		}
		if part.lines.Len() == 0 {
			continue
		}
		family, bad := p.family(name, part.lines.Bytes())
		dropped += bad
		if family != nil {
			families[name] = family
		}
	}
	return families, dropped
}

// sort puts a line into the part of the family it belongs to, or forgets it.
func (p *Parser) sort(line []byte, types map[string]string) {
	if len(line) == 0 {
		return
	}
	if line[0] == '#' {
		p.sortType(line, types)
		return
	}
	end := bytes.IndexAny(line, "{ \t")
	if end <= 0 {
		return // no name: an OpenMetrics or UTF-8 form that no engine uses
	}
	name := string(line[:end])
	family := familyOf(name, types)
	known, ok := p.known(family)
	if !ok {
		p.others++
		return
	}
	part := p.part(known)
	if !part.take(maxPageLines - p.gathered) {
		return
	}
	p.gathered++
	if !part.typed && types[family] != "" {
		part.typed = true
		part.lines.WriteString("# TYPE " + known + " " + types[family] + "\n")
	}
	part.lines.WriteString(known)
	part.lines.Write(withoutExemplar(line)[len(family):])
	part.lines.WriteByte('\n')
}

// known is the name under which a family on the page is wanted. A histogram of a page without TYPE
// lines is as many families as it has parts.
func (p *Parser) known(family string) (name string, ok bool) {
	if p.wanted == nil {
		return family, true
	}
	name, ok = p.wanted[family]
	return name, ok
}

// Others counts the samples of the last page that were not wanted.
func (p *Parser) Others() int { return p.others }

// sortType remembers a TYPE line; of two for one family the first counts.
func (p *Parser) sortType(line []byte, types map[string]string) {
	rest, ok := bytes.CutPrefix(line, []byte("# TYPE "))
	if !ok {
		return
	}
	fields := bytes.Fields(rest)
	if len(fields) != 2 {
		return
	}
	name, kind := string(fields[0]), string(fields[1])
	switch kind {
	case "counter", "gauge", "histogram", "summary":
	default:
		return // info, stateset, unknown: read as untyped
	}
	if types[name] == "" {
		types[name] = kind
	}
	if total := name + "_total"; kind == "counter" && types[total] == "" && !strings.HasSuffix(name, "_total") {
		types[total] = kind // OpenMetrics leaves the suffix out of the TYPE line
	}
}

// familyOf finds the family that a sample name belongs to.
func familyOf(name string, types map[string]string) string {
	if types[name] != "" {
		return name
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		base, ok := strings.CutSuffix(name, suffix)
		if kind := types[base]; ok && (kind == "histogram" || kind == "summary" && suffix != "_bucket") {
			return base
		}
	}
	return name
}

// withoutExemplar cuts the exemplar of an OpenMetrics sample, which the text format has not.
func withoutExemplar(line []byte) []byte {
	if i := bytes.LastIndex(line, []byte(" # {")); i > 0 {
		return line[:i]
	}
	return line
}

func (p *Parser) part(family string) *part {
	got := p.parts[family]
	if got == nil {
		got = &part{}
		p.parts[family] = got
	}
	return got
}

// family parses the lines of one family. A family with a broken line is dropped whole: half a
// histogram would be a wrong one.
func (p *Parser) family(name string, lines []byte) (f *dto.MetricFamily, dropped int) {
	p.reader.Reset(lines)
	parsed, err := p.text.TextToMetricFamilies(&p.reader)
	f = parsed[name]
	if err != nil || f == nil {
		return nil, 1
	}
	dropped = p.clean(f)
	if len(f.Metric) == 0 {
		return nil, dropped
	}
	return f, dropped
}

// clean removes samples that cannot be used and all but the first of equal label sets.
func (p *Parser) clean(f *dto.MetricFamily) (dropped int) {
	before := len(f.Metric)
	seen := make(map[uint64]bool, before)
	f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool {
		key := p.labelKey(m)
		bad := seen[key] || !usable(m)
		seen[key] = true
		return bad
	})
	return before - len(f.Metric)
}

func (p *Parser) labelKey(m *dto.Metric) uint64 {
	slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	var h maphash.Hash
	h.SetSeed(p.seed)
	for _, l := range m.Label {
		h.WriteString(l.GetName())
		h.WriteByte(0)
		h.WriteString(l.GetValue())
		h.WriteByte(0)
	}
	return h.Sum64()
}

func usable(m *dto.Metric) bool {
	switch {
	case m.Counter != nil:
		return counts(m.Counter.GetValue())
	case m.Gauge != nil:
		return finite(m.Gauge.GetValue())
	case m.Untyped != nil:
		return finite(m.Untyped.GetValue())
	case m.Histogram != nil:
		return usableHistogram(m.Histogram)
	case m.Summary != nil:
		return counts(m.Summary.GetSampleSum()) && counts(float64(m.Summary.GetSampleCount()))
	}
	return false
}

// usableHistogram wants finite bounds in order, cumulative counts that never fall, and a sum.
func usableHistogram(h *dto.Histogram) bool {
	if !counts(h.GetSampleSum()) || !counts(h.GetSampleCountFloat()) || len(h.Bucket) == 0 {
		return false
	}
	slices.SortFunc(h.Bucket, func(a, b *dto.Bucket) int {
		switch {
		case a.GetUpperBound() < b.GetUpperBound():
			return -1
		case a.GetUpperBound() > b.GetUpperBound():
			return 1
		}
		return 0
	})
	var last float64
	for _, b := range h.Bucket {
		n := BucketCount(b)
		if math.IsNaN(b.GetUpperBound()) || !counts(n) || n < last {
			return false
		}
		last = n
	}
	return true
}

// BucketCount is the cumulative count of a histogram bucket, whichever way the page wrote it.
func BucketCount(b *dto.Bucket) float64 {
	if f := b.GetCumulativeCountFloat(); f != 0 {
		return f
	}
	return float64(b.GetCumulativeCount())
}

func counts(v float64) bool { return finite(v) && v >= 0 }

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
