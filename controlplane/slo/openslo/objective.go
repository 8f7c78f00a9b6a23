package openslo

import (
	"cmp"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// objectives of an SLO document: one of each of its own objectives.
func (r *reader) objectives(s located[sloSpec]) (found []*commandv1.Objective) {
	name := "SLO " + s.Metadata.Name
	before := len(r.problems)
	base := &commandv1.Objective{
		Name: s.Metadata.Name, Service: s.Spec.Service, DisplayName: s.Metadata.DisplayName, Description: s.Spec.Description,
		Advisory: s.Metadata.Annotations[annotationAdvisory] == "true",
	}
	if s.Spec.Service == "" {
		r.problem(s.line, name, "spec.service is missing")
	}
	base.PeriodMs = r.period(s, name).Milliseconds()
	sli := r.indicator(s, name)
	base.Alerts = r.alerts(s, name)
	switch s.Spec.BudgetingMethod {
	case methodOccurrences, methodTimeslices:
	case "RatioTimeslices":
		r.problem(s.line, name, "budgetingMethod RatioTimeslices averages the ratios of slices, so that a slice with one request weighs as much as one with a thousand: it is not supported; %s", calendarOrRatioHint)
	default:
		r.problem(s.line, name, "budgetingMethod %q: %s", s.Spec.BudgetingMethod, calendarOrRatioHint)
	}
	if len(s.Spec.Objectives) == 0 {
		r.problem(s.line, name, "spec.objectives is empty")
	}
	if sli.ThresholdMetric != nil && len(s.Spec.Objectives) > 1 {
		r.problem(s.line, name, "a thresholdMetric goes with one objective; there are %d", len(s.Spec.Objectives))
	}
	for k, x := range s.Spec.Objectives {
		o := proto.CloneOf(base)
		if len(s.Spec.Objectives) > 1 {
			o.Name = fmt.Sprintf("%s-%d", s.Metadata.Name, k+1)
		}
		o.DisplayName = cmp.Or(x.DisplayName, base.GetDisplayName())
		where := fmt.Sprintf("%s, objective %d", name, k+1)
		r.target(o, x, s.line, where)
		r.slices(o, x, s, where)
		r.measure(o, x, sli, s.line, where)
		found = append(found, o)
	}
	if len(r.problems) > before {
		return nil
	}
	return found
}

func (r *reader) period(s located[sloSpec], name string) time.Duration {
	const usual = 30 * 24 * time.Hour
	windows := s.Spec.TimeWindow
	if len(windows) == 0 {
		r.remark("%s has no timeWindow: 30 days are taken", name)
		return usual
	}
	if len(windows) > 1 {
		r.problem(s.line, name, "timeWindow has %d items; exactly one is allowed", len(windows))
	}
	w := windows[0]
	if w.Calendar != nil || !w.IsRolling {
		r.problem(s.line, name, "calendar windows are not supported: an error budget that is full again on the first of a month says nothing on the second. Use a rolling one: duration 30d, isRolling true, no calendar")
		return usual
	}
	d, err := parseDuration(w.Duration)
	if err != nil {
		r.problem(s.line, name, "timeWindow: %v", err)
	}
	return d
}

func (r *reader) indicator(s located[sloSpec], name string) sliSpec {
	switch {
	case (s.Spec.Indicator == nil) == (s.Spec.IndicatorRef == ""):
		r.problem(s.line, name, "exactly one of indicator and indicatorRef must be there")
	case s.Spec.Indicator != nil:
		return s.Spec.Indicator.Spec
	default:
		if sli, ok := r.slis[s.Spec.IndicatorRef]; ok {
			return sli
		}
		r.problem(s.line, name, "indicatorRef %q: there is no such SLI among the documents", s.Spec.IndicatorRef)
	}
	return sliSpec{}
}

func (r *reader) target(o *commandv1.Objective, x objective, line int, where string) {
	switch {
	case (x.Target == nil) == (x.TargetPercent == nil):
		r.problem(line, where, "exactly one of target and targetPercent must be there")
		return
	case x.Target != nil:
		o.Target = *x.Target
	default:
		o.Target = *x.TargetPercent / 100
	}
	if !(o.GetTarget() > 0 && o.GetTarget() < 1) {
		r.problem(line, where, "a target of %g leaves no budget, or nothing to meet: use a share between 0 and 1", o.GetTarget())
	}
}

func (r *reader) slices(o *commandv1.Objective, x objective, s located[sloSpec], where string) {
	if s.Spec.BudgetingMethod != methodTimeslices {
		if x.TimeSliceTarget != nil || x.TimeSliceWindow != nil {
			r.problem(s.line, where, "timeSliceTarget and timeSliceWindow go with budgetingMethod Timeslices")
		}
		return
	}
	if x.TimeSliceTarget == nil || x.TimeSliceWindow == nil {
		r.problem(s.line, where, "Timeslices need timeSliceTarget and timeSliceWindow")
		return
	}
	d, err := sliceWindow(x.TimeSliceWindow)
	if err != nil {
		r.problem(s.line, where, "%v", err)
	}
	o.SliceMs, o.SliceTarget = d.Milliseconds(), *x.TimeSliceTarget
}
