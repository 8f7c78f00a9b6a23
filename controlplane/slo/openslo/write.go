package openslo

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	"github.com/goccy/go-yaml"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Write objectives as OpenSLO v1 documents, one each, with everything in place. What Read makes of them
// is what was written.
func Write(objectives []*commandv1.Objective) ([]byte, error) {
	var out bytes.Buffer
	for k, o := range objectives {
		if k > 0 {
			out.WriteString("---\n")
		}
		d, err := docOf(o)
		if err != nil {
			return nil, fmt.Errorf("objective %s: %w", o.GetName(), err)
		}
		raw, err := yaml.MarshalWithOptions(d, yaml.IndentSequence(true))
		if err != nil {
			return nil, fmt.Errorf("objective %s: %w", o.GetName(), err)
		}
		out.Write(raw)
	}
	return out.Bytes(), nil
}

func docOf(o *commandv1.Objective) (*object[sloSpec], error) {
	sli, bound, err := indicatorOf(o)
	if err != nil {
		return nil, err
	}
	d := &object[sloSpec]{
		APIVersion: Version, Kind: kindSLO, Metadata: metadata{Name: o.GetName(), DisplayName: o.GetDisplayName()},
		Spec: sloSpec{
			Description: o.GetDescription(), Service: cmp.Or(o.GetService(), o.GetGroup(), o.GetModel()),
			Indicator:       &object[sliSpec]{Metadata: metadata{Name: o.GetName()}, Spec: sli},
			TimeWindow:      []timeWindow{{Duration: formatDuration(time.Duration(o.GetPeriodMs()) * time.Millisecond), IsRolling: true}},
			BudgetingMethod: methodOccurrences,
		},
	}
	if o.GetAdvisory() {
		d.Metadata.Annotations = map[string]string{annotationAdvisory: "true"}
	}
	bound.Target = &o.Target
	if o.GetSliceMs() > 0 {
		d.Spec.BudgetingMethod = methodTimeslices
		bound.TimeSliceTarget, bound.TimeSliceWindow = &o.SliceTarget, sliceOf(time.Duration(o.GetSliceMs())*time.Millisecond)
	}
	d.Spec.Objectives = []objective{bound}
	for _, a := range o.GetAlerts() {
		d.Spec.AlertPolicies = append(d.Spec.AlertPolicies, policyOf(a))
	}
	return d, nil
}

// sliceOf is a duration where the shorthand has one, else a number of minutes.
func sliceOf(d time.Duration) any {
	if d%time.Minute == 0 {
		return formatDuration(d)
	}
	return d.Minutes()
}

// indicatorOf an objective, with what its bound says.
func indicatorOf(o *commandv1.Objective) (sliSpec, objective, error) {
	ours := func(s ourSource) *metric {
		s.Group, s.Model = o.GetGroup(), o.GetModel()
		return &metric{MetricSource: metricSource{Type: sourceOurs, Spec: s}}
	}
	promql := func(query string) *metric {
		return &metric{MetricSource: metricSource{Type: sourcePrometheus, Spec: prometheusSource{Query: query, Group: o.GetGroup(), Model: o.GetModel()}}}
	}
	for name, indicator := range latencies {
		if indicator == o.GetIndicator() {
			return sliSpec{ThresholdMetric: ours(ourSource{Metric: name})}, objective{Op: "lte", Value: &o.BoundSeconds}, nil
		}
	}
	q := o.GetQuery()
	switch {
	case o.GetIndicator() == commandv1.Indicator_INDICATOR_AVAILABILITY:
		return sliSpec{RatioMetric: &ratioMetric{Counter: true, Good: ours(ourSource{Metric: metricFinished}), Total: ours(ourSource{Metric: metricRequests})}}, objective{}, nil
	case o.GetIndicator() == commandv1.Indicator_INDICATOR_GOODPUT:
		good := ourSource{Metric: metricWithinBounds, TTFTSeconds: o.GetBoundSeconds(), TPOTSeconds: o.GetTpotBoundSeconds()}
		return sliSpec{RatioMetric: &ratioMetric{Counter: true, Good: ours(good), Total: ours(ourSource{Metric: metricRequests})}}, objective{}, nil
	case q.GetThreshold() != "":
		return sliSpec{ThresholdMetric: promql(q.GetThreshold())}, objective{Op: q.GetOp(), Value: &q.Value}, nil
	case q.GetGood() != "":
		return sliSpec{RatioMetric: &ratioMetric{Counter: true, Good: promql(q.GetGood()), Total: promql(q.GetTotal())}}, objective{}, nil
	case q.GetBad() != "":
		return sliSpec{RatioMetric: &ratioMetric{Counter: true, Bad: promql(q.GetBad()), Total: promql(q.GetTotal())}}, objective{}, nil
	}
	return sliSpec{}, objective{}, fmt.Errorf("indicator %s has no form in OpenSLO", o.GetIndicator())
}

func policyOf(a *commandv1.BurnAlert) policyItem {
	minutes := func(ms int64) string { return formatDuration(time.Duration(ms) * time.Millisecond) }
	p := policyItem{Kind: kindAlertPolicy, Metadata: &metadata{Name: a.GetName()}, Spec: &policySpec{
		Description: a.GetDescription(), AlertWhenNoData: a.GetWhenNoData(), AlertWhenResolved: a.GetWhenResolved(), AlertWhenBreaching: true,
		Conditions: []conditionItem{{Kind: kindAlertCondition, Metadata: &metadata{Name: cmp.Or(a.GetCondition(), a.GetName())}, Spec: &conditionSpec{
			Severity:  a.GetSeverity(),
			Condition: condition{Kind: conditionBurnRate, Op: "gt", Threshold: &a.Threshold, LookbackWindow: minutes(a.GetLookbackMs()), AlertAfter: minutes(a.GetAfterMs())},
		}}},
	}}
	for _, t := range a.GetTargets() {
		p.Spec.NotificationTarget = append(p.Spec.NotificationTarget, targetItem{TargetRef: t})
	}
	return p
}
