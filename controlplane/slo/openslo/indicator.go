package openslo

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// latencies are the metrics that a threshold can be put on.
var latencies = map[string]commandv1.Indicator{
	fleet.TTFT:  commandv1.Indicator_INDICATOR_TTFT,
	fleet.TPOT:  commandv1.Indicator_INDICATOR_TPOT,
	fleet.ITL:   commandv1.Indicator_INDICATOR_ITL,
	fleet.E2E:   commandv1.Indicator_INDICATOR_E2E,
	fleet.Queue: commandv1.Indicator_INDICATOR_QUEUE_TIME,
}

// source of a metric, read.
type source struct {
	ours  *ourSource
	query string
	scope ourSource // group and model alone
}

// measure sets what an objective counts.
func (r *reader) measure(o *commandv1.Objective, x objective, sli sliSpec, line int, where string) {
	switch {
	case sli.ThresholdMetric != nil && sli.RatioMetric != nil, sli.ThresholdMetric == nil && sli.RatioMetric == nil:
		r.problem(line, where, "the indicator needs exactly one of thresholdMetric and ratioMetric")
	case sli.ThresholdMetric != nil:
		r.threshold(o, x, sli.ThresholdMetric, line, where)
	default:
		r.ratio(o, sli.RatioMetric, line, where)
	}
}

func (r *reader) threshold(o *commandv1.Objective, x objective, m *metric, line int, where string) {
	src, ok := r.source(m, line, where+", thresholdMetric")
	if !ok {
		return
	}
	if x.Value == nil {
		r.problem(line, where, "a thresholdMetric needs a value to compare with")
		return
	}
	r.scope(o, src)
	if src.ours == nil {
		o.Indicator = commandv1.Indicator_INDICATOR_QUERY
		o.Query = &commandv1.Query{Threshold: src.query, Op: x.Op, Value: *x.Value}
		if !slices.Contains([]string{"lte", "lt", "gte", "gt"}, x.Op) {
			r.problem(line, where, "op %q: use lte, lt, gte or gt", x.Op)
		}
		return
	}
	indicator, known := latencies[src.ours.Metric]
	if !known {
		r.problem(line, where, "metric %q has no threshold; there are %s", src.ours.Metric, strings.Join(slices.Sorted(maps.Keys(latencies)), ", "))
		return
	}
	if x.Op != "lte" {
		r.problem(line, where, "op %q: a latency is good when it is at most the value; use lte", x.Op)
	}
	o.Indicator, o.BoundSeconds = indicator, *x.Value
}

func (r *reader) ratio(o *commandv1.Objective, m *ratioMetric, line int, where string) {
	if m.Raw != nil || m.RawType != "" {
		r.problem(line, where, "a ratio that was computed before (raw) does not tell how many events stand behind it, and alerts on a handful would be noise: give good or bad with total")
		return
	}
	if (m.Good == nil) == (m.Bad == nil) || m.Total == nil {
		r.problem(line, where, "a ratioMetric needs total with exactly one of good and bad")
		return
	}
	part := cmp.Or(m.Good, m.Bad)
	some, ok := r.source(part, line, where+", "+map[bool]string{true: "good", false: "bad"}[m.Good != nil])
	total, ok2 := r.source(m.Total, line, where+", total")
	if !ok || !ok2 {
		return
	}
	if (some.ours == nil) != (total.ours == nil) || some.scope != total.scope {
		r.problem(line, where, "good or bad and total must come from one type of source, and from one group or model")
		return
	}
	r.scope(o, some)
	if some.ours != nil {
		r.ratioOfOurs(o, m, *some.ours, *total.ours, line, where)
		return
	}
	if !m.Counter {
		r.problem(line, where, "counter must be true: numbers that go up and down cannot be added up over a month")
	}
	o.Indicator = commandv1.Indicator_INDICATOR_QUERY
	o.Query = &commandv1.Query{Total: total.query}
	if m.Good != nil {
		o.Query.Good = some.query
	} else {
		o.Query.Bad = some.query
	}
}

// ratioOfOurs are availability and goodput.
func (r *reader) ratioOfOurs(o *commandv1.Objective, m *ratioMetric, some, total ourSource, line int, where string) {
	bounds := some.TTFTSeconds != 0 || some.TPOTSeconds != 0
	switch {
	case total.Metric != metricRequests:
		r.problem(line, where, "the total of requests is metric: %s", metricRequests)
	case !bounds && (m.Good != nil && some.Metric == metricFinished || m.Bad != nil && some.Metric == metricFailed):
		o.Indicator = commandv1.Indicator_INDICATOR_AVAILABILITY
	case m.Good != nil && some.Metric == metricWithinBounds:
		o.Indicator = commandv1.Indicator_INDICATOR_GOODPUT
		o.BoundSeconds, o.TpotBoundSeconds = some.TTFTSeconds, some.TPOTSeconds
		if some.TTFTSeconds <= 0 || some.TPOTSeconds <= 0 {
			r.problem(line, where, "%s needs ttftSeconds and tpotSeconds", metricWithinBounds)
		}
	default:
		r.problem(line, where, "there are good: %s or bad: %s (availability), and good: %s with ttftSeconds and tpotSeconds (goodput)", metricFinished, metricFailed, metricWithinBounds)
	}
}

// scope of an objective: what its sources say, else the group that the service is named after.
func (r *reader) scope(o *commandv1.Objective, src source) {
	o.Group, o.Model = src.scope.Group, src.scope.Model
	if o.GetGroup() == "" && o.GetModel() == "" && src.ours != nil {
		o.Group = o.GetService()
	}
}

// source reads a metric's source.
func (r *reader) source(m *metric, line int, where string) (source, bool) {
	before := len(r.problems)
	typ := m.MetricSource.Type
	if ref := m.MetricSource.MetricSourceRef; ref != "" {
		d, known := r.sources[ref]
		switch {
		case !known && typ == "":
			r.problem(line, where, "metricSourceRef %q: there is no such DataSource among the documents", ref)
			return source{}, false
		case known && typ != "" && d.Type != typ:
			r.problem(line, where, "type %s is not that of DataSource %s, %s", typ, ref, d.Type)
		}
		typ = cmp.Or(typ, d.Type)
		if known && strings.EqualFold(typ, sourcePrometheus) {
			r.remark("DataSource %s: the control plane's own history answers its queries; its connectionDetails are not used", ref)
		}
	}
	var s source
	switch {
	case strings.EqualFold(typ, sourceOurs):
		s.ours = &ourSource{}
		r.sourceSpec(m, s.ours, line, where)
		s.scope = ourSource{Group: s.ours.Group, Model: s.ours.Model}
	case strings.EqualFold(typ, sourcePrometheus):
		var p prometheusSource
		r.sourceSpec(m, &p, line, where)
		q, err := Query(p.Query)
		if err != nil && len(r.problems) == before {
			r.problem(line, where, "%v", err)
		}
		s.query, s.scope = q, ourSource{Group: p.Group, Model: p.Model}
	default:
		r.problem(line, where, "metric source %q cannot be asked: use %s, which names what engines do, or %s, for PromQL over the control plane's history", typ, sourceOurs, sourcePrometheus)
	}
	if s.scope.Group != "" && s.scope.Model != "" {
		r.problem(line, where, "it is of a group and of a model; choose one")
	}
	return s, len(r.problems) == before
}

// sourceSpec reads the part of a source that its type defines, as strictly as the rest.
func (r *reader) sourceSpec(m *metric, v any, line int, where string) {
	raw, err := yaml.Marshal(m.MetricSource.Spec)
	if err == nil {
		var problems Problems
		if file, perr := parser.ParseBytes(raw, 0); perr == nil && len(file.Docs) == 1 && file.Docs[0].Body != nil {
			problems = decode(file.Docs[0].Body, v, where)
		} else {
			err = cmp.Or(perr, fmt.Errorf("it is empty"))
		}
		for _, p := range problems {
			r.problem(line, where, "metricSource.spec: %s", p.Text)
		}
	}
	if err != nil {
		r.problem(line, where, "metricSource.spec: %v", err)
	}
}
