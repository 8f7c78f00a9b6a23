package slo

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Absence is the name of the alert that nothing is known of an objective. Every objective has it.
const Absence = "absence"

// Alert of an objective, as it stands now.
type Alert struct {
	Rule
	LongBurn, ShortBurn float64 // NaN without events
	Events              float64 // in the long window
	// Firing since; zero: it does not.
	Firing time.Time
}

// change of a violation, to be proposed.
type change struct {
	violation *commandv1.Violation
	begins    bool
	scope     scope
}

// judge all objectives by what was counted last. The caller holds mu.
func (s *Service) judge(now time.Time) (changes []change) {
	open := map[string]*commandv1.Violation{}
	for _, v := range s.state.Violations("") {
		if v.GetEndMs() == 0 {
			open[v.GetKind().String()+v.GetObjective()] = v
		}
	}
	for _, t := range s.sorted() {
		t.judge()
		for kind, fired := range map[commandv1.ViolationKind][]*commandv1.FiredAlert{
			commandv1.ViolationKind_VIOLATION_KIND_BURN:    t.burning(),
			commandv1.ViolationKind_VIOLATION_KIND_ABSENCE: t.absent(),
		} {
			v := open[kind.String()+t.objective.GetName()]
			next, begins := s.followViolation(t, v, kind, fired, now)
			if next != nil {
				changes = append(changes, change{next, begins, scope{t.objective.GetGroup(), t.objective.GetModel()}})
			}
		}
	}
	return changes
}

// judge the rules of an objective.
func (t *tracker) judge() {
	t.alerts = t.alerts[:0]
	for _, r := range Rules(t.objective) {
		long, short := t.over(r.Long), t.over(r.Short)
		a := Alert{Rule: r, LongBurn: Burn(long, t.objective.GetTarget()), ShortBurn: Burn(short, t.objective.GetTarget()), Events: long.Total()}
		if !r.Fires(t.objective.GetTarget(), long, short) {
			delete(t.holds, r.Name)
			t.alerts = append(t.alerts, a)
			continue
		}
		if t.holds[r.Name].IsZero() {
			t.holds[r.Name] = t.at()
		}
		if t.at().Sub(t.holds[r.Name]) >= r.After {
			a.Firing = t.holds[r.Name].Add(r.After)
		}
		t.alerts = append(t.alerts, a)
	}
}

func (t *tracker) burning() (fired []*commandv1.FiredAlert) {
	for _, a := range t.alerts {
		if !a.Firing.IsZero() {
			fired = append(fired, &commandv1.FiredAlert{
				Name: a.Name, Severity: a.Severity, SinceMs: a.Firing.UnixMilli(), Burn: a.LongBurn, Threshold: a.Burn,
			})
		}
	}
	return fired
}

func (t *tracker) absent() []*commandv1.FiredAlert {
	after := AbsenceAfter(t.objective)
	silent := t.unknownFor()
	if silent < after {
		return nil
	}
	return []*commandv1.FiredAlert{{Name: Absence, Severity: "page", SinceMs: t.at().Add(after - silent).UnixMilli()}}
}

// followViolation returns what is to be proposed of an objective's violation of one kind: a new one, one
// brought up to date, one that is over; nil when there is nothing to tell.
func (s *Service) followViolation(t *tracker, open *commandv1.Violation, kind commandv1.ViolationKind, fired []*commandv1.FiredAlert, now time.Time) (next *commandv1.Violation, begins bool) {
	if open == nil {
		if len(fired) == 0 {
			return nil, false
		}
		return s.begin(t, kind, fired, now), true
	}
	if kind == commandv1.ViolationKind_VIOLATION_KIND_ABSENCE && len(fired) == 0 && !t.knownAt.After(t.begun) {
		return nil, false // another leader found it, and nothing has been seen since
	}
	v := proto.CloneOf(open)
	if !updateAlerts(v, fired, now) {
		return nil, false
	}
	if len(fired) == 0 {
		v.EndMs = now.UnixMilli()
	}
	t.fill(v)
	return v, false
}

// begin a violation.
func (s *Service) begin(t *tracker, kind commandv1.ViolationKind, fired []*commandv1.FiredAlert, now time.Time) *commandv1.Violation {
	o := t.objective
	v := &commandv1.Violation{
		Objective: o.GetName(), Service: o.GetService(), Group: o.GetGroup(), Kind: kind, DetectedMs: now.UnixMilli(), Alerts: fired,
	}
	if kind == commandv1.ViolationKind_VIOLATION_KIND_ABSENCE {
		v.StartMs = later(t.knownAt, t.begun).UnixMilli()
		v.Summary = fmt.Sprintf("nothing has been measured for %v; an outage would have burned a hundredth of its error budget", t.unknownFor().Round(time.Second))
	} else {
		longest := time.Duration(0)
		for _, a := range t.alerts {
			if !a.Firing.IsZero() {
				longest = max(longest, a.Long)
			}
		}
		v.StartMs = t.badSince(now.Add(-longest)).UnixMilli()
		v.Summary = fmt.Sprintf("%s burns at %.3g times the pace that lasts (alert %s from %.3g)", fsm.Promise(o), fired[0].GetBurn(), fired[0].GetName(), fired[0].GetThreshold())
	}
	v.Id = fmt.Sprintf("v-%s-%d", o.GetName(), v.GetDetectedMs())
	v.RolloutId = s.rolloutAt(o, v.GetStartMs())
	t.fill(v)
	return v
}

// fill in what happened since the violation began.
func (t *tracker) fill(v *commandv1.Violation) {
	c := t.between(time.UnixMilli(v.GetStartMs()), t.at())
	v.Bad, v.Total = c.Bad, c.Total()
	for _, a := range v.GetAlerts() {
		v.PeakBurn = max(v.GetPeakBurn(), a.GetBurn())
	}
}

// updateAlerts of a violation by those that fire now; false when nothing changed but how fast they burn.
func updateAlerts(v *commandv1.Violation, fired []*commandv1.FiredAlert, now time.Time) (changed bool) {
	firing := map[string]*commandv1.FiredAlert{}
	for _, a := range v.GetAlerts() {
		if a.GetUntilMs() == 0 {
			firing[a.GetName()] = a
		}
	}
	still := map[string]bool{}
	for _, a := range fired {
		still[a.GetName()] = true
		if old := firing[a.GetName()]; old != nil {
			old.Burn = max(old.GetBurn(), a.GetBurn())
			continue
		}
		v.Alerts = append(v.Alerts, a)
		changed = true
	}
	for name, a := range firing {
		if !still[name] {
			a.UntilMs, changed = now.UnixMilli(), true
		}
	}
	return changed
}

// rolloutAt is the rollout that was changing replicas of the objective's group at a time, empty when none
// was.
func (s *Service) rolloutAt(o *commandv1.Objective, ms int64) string {
	for _, r := range s.state.Rollouts(o.GetGroup()) {
		if waves := r.GetWaves(); len(waves) > 0 && waves[0].GetPlannedMs() <= ms && (r.GetEndedMs() == 0 || r.GetEndedMs() >= ms) && s.covers(o, r.GetGroup()) {
			return r.GetId()
		}
	}
	return ""
}

// causeTimeout bounds the search for a cause. It predicts what remedies would bring, which takes seconds.
const causeTimeout = time.Minute

// report a change of a violation, and have the cause of one that begins guessed meanwhile.
func (s *Service) report(ctx context.Context, c change) {
	if !s.putViolation(ctx, c.violation) || !c.begins {
		return
	}
	s.logger.Warn("objective is violated", "objective", c.violation.GetObjective(), "violation", c.violation.GetId(), "summary", c.violation.GetSummary(), "rollout", c.violation.GetRolloutId())
	if s.ports.Analyst != nil {
		s.causes.Go(func() { s.explain(ctx, c) })
	}
}

// explain a violation by what limits the first of its groups of which that is known.
func (s *Service) explain(ctx context.Context, c change) {
	ctx, cancel := context.WithTimeout(ctx, causeTimeout)
	defer cancel()
	for _, group := range s.groups(c.scope) {
		findings, err := s.ports.Analyst.Findings(ctx, group)
		if err != nil || len(findings) == 0 {
			s.logger.Info("no cause was found", "violation", c.violation.GetId(), "group", group, "error", err)
			continue
		}
		for _, v := range s.state.Violations(c.violation.GetObjective()) { // as it is by now
			if v.GetId() == c.violation.GetId() && v.GetEndMs() == 0 {
				v.CauseClass, v.Cause = findings[0].GetClass(), findings[0].GetSummary()
				s.putViolation(ctx, v)
			}
		}
		return
	}
}

func (s *Service) putViolation(ctx context.Context, v *commandv1.Violation) bool {
	res, err := s.ports.Log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_VIOLATION, &commandv1.PutViolation{Violation: v}, "", "leader")
	if err == nil {
		err = res.Err()
	}
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("a violation was not recorded", "violation", v.GetId(), "error", err)
	}
	return err == nil
}

// groups that a scope lies in.
func (s *Service) groups(sc scope) (names []string) {
	if sc.group != "" {
		return []string{sc.group}
	}
	for _, g := range s.state.Groups() {
		if sc.model != "" && s.serves(g.GetName(), sc.model) {
			names = append(names, g.GetName())
		}
	}
	return names
}

func (s *Service) serves(group, model string) bool {
	for _, i := range s.state.Instances(group) {
		if i.GetModel() == model {
			return true
		}
	}
	return false
}

// covers reports whether what a group's engines do counts for the objective.
func (s *Service) covers(o *commandv1.Objective, group string) bool {
	switch {
	case o.GetGroup() != "":
		return o.GetGroup() == group
	case o.GetModel() != "":
		return s.serves(group, o.GetModel())
	}
	return o.GetService() == group
}
