package expo

import (
	"math"
	"strconv"
	"strings"
)

func (f *Family) append(b []byte) []byte {
	b = f.header(b, f.name, f.kind)
	for _, s := range f.order {
		b = s.append(b)
	}
	if f.reg.style == Python && f.kind != Gauge && len(f.order) > 0 {
		b = f.appendCreated(b)
	}
	return b
}

func (f *Family) header(b []byte, name string, kind Kind) []byte {
	if f.help != "" {
		b = append(b, "# HELP "+name+" "+f.help+"\n"...)
	}
	return append(b, "# TYPE "+name+" "+string(kind)+"\n"...)
}

// appendCreated writes the gauge that the Python client puts beside counters and histograms.
func (f *Family) appendCreated(b []byte) []byte {
	name := f.name
	if f.kind == Counter {
		name = strings.TrimSuffix(name, "_total")
	}
	name += "_created"
	b = f.header(b, name, Gauge)
	for _, s := range f.order {
		b = f.sample(b, name, s.labels)
		b = strconv.AppendFloat(b, f.reg.created, 'e', -1, 64)
		b = append(b, '\n')
	}
	return b
}

func (s *Series) append(b []byte) []byte {
	f := s.fam
	switch f.kind {
	case Histogram:
		return s.appendHistogram(b)
	case Summary:
		for i, q := range f.quantiles {
			b = f.line(b, f.name, s.buckets[i], s.quantile(q))
		}
		return s.appendTotals(b)
	}
	return f.line(b, f.name, s.labels, s.value)
}

func (s *Series) appendHistogram(b []byte) []byte {
	f := s.fam
	if f.reg.style == Multiprocess {
		b = f.line(b, f.name+"_sum", s.labels, s.value)
	}
	name, total := f.name+"_bucket", uint64(0)
	for i, n := range s.counts {
		total += n
		b = f.line(b, name, s.buckets[i], float64(total))
	}
	if f.reg.style == Multiprocess {
		return f.line(b, f.name+"_count", s.labels, float64(s.count))
	}
	return s.appendTotals(b)
}

func (s *Series) appendTotals(b []byte) []byte {
	f := s.fam
	if f.reg.style == Python {
		b = f.line(b, f.name+"_count", s.labels, float64(s.count))
		return f.line(b, f.name+"_sum", s.labels, s.value)
	}
	b = f.line(b, f.name+"_sum", s.labels, s.value)
	return f.line(b, f.name+"_count", s.labels, float64(s.count))
}

// quantile of the whole numbers seen so far.
func (s *Series) quantile(q float64) float64 {
	rank := max(uint64(math.Ceil(q*float64(s.count))), 1)
	var seen uint64
	for v, n := range s.counts {
		if seen += n; seen >= rank {
			return float64(v)
		}
	}
	return 0
}

func (f *Family) sample(b []byte, name, labels string) []byte {
	b = append(b, name...)
	if labels != "" {
		b = append(append(append(b, '{'), labels...), '}')
	}
	return append(b, ' ')
}

func (f *Family) line(b []byte, name, labels string, v float64) []byte {
	b = f.sample(b, name, labels)
	return append(f.reg.style.appendNumber(b, v), '\n')
}
