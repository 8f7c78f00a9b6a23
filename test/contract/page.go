package contract

import (
	"bufio"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// page is a metrics page, taken apart.
type page struct {
	kinds   map[string]string // family to type
	samples []sample
}

type sample struct {
	name   string
	labels map[string]string
	value  float64
}

func readPage(text string) page {
	p := page{kinds: map[string]string{}}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if words := strings.Fields(line); len(words) == 4 && words[1] == "TYPE" {
			p.kinds[words[2]] = words[3]
		}
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			continue
		}
		name, rest, _ := strings.Cut(line[:at], "{")
		p.samples = append(p.samples, sample{name, labels(strings.TrimSuffix(rest, "}")), value})
	}
	return p
}

// labels reads name="value" pairs.
func labels(s string) map[string]string {
	out := map[string]string{}
	for s != "" {
		name, rest, _ := strings.Cut(s, "=")
		value, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return out
		}
		out[name], _ = strconv.Unquote(value)
		s = strings.TrimPrefix(rest[len(value):], ",")
	}
	return out
}

// family of a sample: histograms and summaries have several names.
func (p page) family(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && (p.kinds[base] == "histogram" || p.kinds[base] == "summary") {
			return base
		}
	}
	return name
}

// closed are labels with few values, which belong to the contract.
var closed = []string{"finished_reason", "reason", "sleep_state", "source", "cache_source", "err", "is_streaming"}

// families says of each family its type, the names of its labels and, of a histogram, its bounds.
func (p page) families() map[string]string {
	names, bounds := map[string]map[string]bool{}, map[string][]string{}
	for _, s := range p.samples {
		f := p.family(s.name)
		if names[f] == nil {
			names[f] = map[string]bool{}
		}
		if le, ok := s.labels["le"]; ok && !slices.Contains(bounds[f], le) {
			bounds[f] = append(bounds[f], le)
		}
		names[f][labelSet(s.labels)] = true
	}
	out := map[string]string{}
	for f, kind := range p.kinds {
		text := kind
		for _, set := range slices.Sorted(maps.Keys(names[f])) {
			text += " {" + set + "}"
		}
		if len(bounds[f]) > 0 {
			text += " ≤ " + strings.Join(bounds[f], " ")
		}
		out[f] = text
	}
	return out
}

func labelSet(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		switch {
		case name == "le", name == "quantile":
		case slices.Contains(closed, name):
			parts = append(parts, name+"="+labels[name])
		default:
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, ",")
}

// sum adds the samples that have the selector's name and labels: name or name{label="value"}.
func (p page) sum(selector string) (total float64) {
	name, rest, _ := strings.Cut(selector, "{")
	want := labels(strings.TrimSuffix(rest, "}"))
	for _, s := range p.samples {
		fits := s.name == name
		for k, v := range want {
			fits = fits && s.labels[k] == v
		}
		if fits {
			total += s.value
		}
	}
	return total
}
