package openslo

import (
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// alerts of an SLO, from its policies.
func (r *reader) alerts(s located[sloSpec], name string) (found []*commandv1.BurnAlert) {
	for k, item := range s.Spec.AlertPolicies {
		policy, spec, ok := r.policy(item, k, s.line, name)
		if !ok {
			continue
		}
		if len(spec.Conditions) != 1 {
			r.problem(s.line, name, "alert policy %s has %d conditions; exactly one is allowed", policy, len(spec.Conditions))
			continue
		}
		if a := r.alert(policy, spec, s.line, name); a != nil {
			found = append(found, a)
		}
	}
	return found
}

// policy in place, or by its name.
func (r *reader) policy(item policyItem, k, line int, name string) (string, policySpec, bool) {
	if item.AlertPolicyRef != "" {
		if item.Spec != nil || item.Metadata != nil {
			r.problem(line, name, "alertPolicies[%d] is a reference and a policy in place; choose one", k)
			return "", policySpec{}, false
		}
		spec, known := r.policies[item.AlertPolicyRef]
		if !known {
			r.problem(line, name, "alertPolicyRef %q: there is no such AlertPolicy among the documents", item.AlertPolicyRef)
		}
		return item.AlertPolicyRef, spec, known
	}
	if item.Spec == nil || item.Metadata == nil || item.Metadata.Name == "" || item.Kind != kindAlertPolicy {
		r.problem(line, name, "alertPolicies[%d] needs alertPolicyRef, or kind AlertPolicy with metadata.name and spec", k)
		return "", policySpec{}, false
	}
	return item.Metadata.Name, *item.Spec, true
}

// alert of one policy; nil when it asks for none.
func (r *reader) alert(policy string, p policySpec, line int, name string) *commandv1.BurnAlert {
	condition, spec, ok := r.condition(p.Conditions[0], line, name+", alert policy "+policy)
	if !ok {
		return nil
	}
	a := &commandv1.BurnAlert{
		Name: policy, Condition: condition, Description: p.Description, Severity: spec.Severity, Threshold: *spec.Condition.Threshold,
		WhenResolved: p.AlertWhenResolved, WhenNoData: p.AlertWhenNoData, Targets: r.notify(p, line, name+", alert policy "+policy),
	}
	milliseconds := func(text string) int64 {
		d, err := parseDuration(text)
		if err != nil {
			r.problem(line, name+", alert policy "+policy, "%v", err)
		}
		return d.Milliseconds()
	}
	a.LookbackMs = milliseconds(spec.Condition.LookbackWindow)
	if spec.Condition.AlertAfter != "" {
		a.AfterMs = milliseconds(spec.Condition.AlertAfter)
	}
	if !p.AlertWhenNoData {
		r.remark("alert policy %s: an objective of which nothing is known alerts in any case, whatever alertWhenNoData says", policy)
	}
	if !p.AlertWhenBreaching {
		r.remark("alert policy %s does not alert when its condition is breached, so it stands for nothing here", policy)
		return nil
	}
	return a
}

// condition in place, or by its name.
func (r *reader) condition(item conditionItem, line int, where string) (string, conditionSpec, bool) {
	name, spec := item.ConditionRef, conditionSpec{}
	switch {
	case name != "" && item.Spec == nil && item.Metadata == nil:
		known := false
		if spec, known = r.conditions[name]; !known {
			r.problem(line, where, "conditionRef %q: there is no such AlertCondition among the documents", name)
			return "", spec, false
		}
	case name == "" && item.Spec != nil && item.Metadata != nil && item.Metadata.Name != "" && item.Kind == kindAlertCondition:
		name, spec = item.Metadata.Name, *item.Spec
	default:
		r.problem(line, where, "a condition needs conditionRef, or kind AlertCondition with metadata.name and spec")
		return "", spec, false
	}
	return name, spec, r.checkCondition(spec, line, where+", condition "+name)
}

func (r *reader) checkCondition(spec conditionSpec, line int, where string) bool {
	before := len(r.problems)
	c := spec.Condition
	if c.Kind != "" && c.Kind != conditionBurnRate {
		r.problem(line, where, "kind %q: the only kind is %s", c.Kind, conditionBurnRate)
	}
	if c.Op != "" && c.Op != "gt" && c.Op != "gte" {
		r.problem(line, where, "op %q: a budget burns too fast when its rate is above the threshold; use gt, or leave it out", c.Op)
	}
	if c.Threshold == nil {
		r.problem(line, where, "threshold is missing")
	}
	if spec.Severity == "" {
		r.problem(line, where, "severity is missing")
	}
	if c.LookbackWindow == "" {
		r.problem(line, where, "lookbackWindow is missing")
	}
	return len(r.problems) == before
}

// notify lists the names of a policy's targets.
func (r *reader) notify(p policySpec, line int, where string) (names []string) {
	for k, item := range p.NotificationTarget {
		switch {
		case item.TargetRef != "":
			names = append(names, item.TargetRef)
		case item.Metadata != nil && item.Metadata.Name != "" && item.Kind == kindAlertTarget && item.Spec != nil:
			names = append(names, item.Metadata.Name)
		default:
			r.problem(line, where, "notificationTargets[%d] needs targetRef, or kind AlertNotificationTarget with metadata.name and spec", k)
		}
	}
	if len(names) > 0 {
		r.remark("notification targets are kept by name; alerts are at /slo/alerts, /events and /metrics, and nobody is called")
	}
	return names
}
