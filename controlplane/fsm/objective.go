package fsm

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Limits of objectives.
const (
	maxObjectives = 500
	maxAlerts     = 16
	minPeriod     = time.Hour
	maxPeriod     = 30 * 24 * time.Hour // sums of hours are kept this long
	maxLookback   = 3 * 24 * time.Hour  // points of five minutes are
	maxSlice      = 5 * time.Minute     // one-second windows are kept twice as long
	sliceStep     = 10 * time.Second
	minuteMs      = 60_000
)

// What the objectives in a group's policy promise, as they name no target.
const (
	derivedTarget = 0.95
	derivedPeriod = maxPeriod
)

// reservedObjectives are the last parts of routes under /slo/.
var reservedObjectives = []string{"alerts", "budget", "configure", "export", "import", "policy", "status", "violations"}

// Measure tells what an objective counts. Two objectives of one measure count the same events alike.
func Measure(o *commandv1.Objective) string {
	q := o.GetQuery()
	return strings.Join([]string{
		o.GetIndicator().String(), o.GetGroup(), o.GetModel(),
		fmt.Sprint(o.GetBoundSeconds(), o.GetTpotBoundSeconds(), o.GetSliceMs(), o.GetSliceTarget()),
		q.GetGood(), q.GetBad(), q.GetTotal(), q.GetThreshold(), q.GetOp(), fmt.Sprint(q.GetValue()),
	}, "\x00")
}

// derived are the objectives that a group's policy sets by its bounds: advisory, until somebody puts
// one of the same name.
func derived(g *commandv1.Group) []*commandv1.Objective {
	var found []*commandv1.Objective
	bounds := g.GetPolicy().GetObjectives()
	for _, d := range []struct {
		name      string
		indicator commandv1.Indicator
		bound     float64
	}{
		{"ttft", commandv1.Indicator_INDICATOR_TTFT, bounds.GetTtftSeconds()},
		{"tpot", commandv1.Indicator_INDICATOR_TPOT, bounds.GetTpotSeconds()},
		{"e2e", commandv1.Indicator_INDICATOR_E2E, bounds.GetE2ESeconds()},
	} {
		if d.bound > 0 {
			found = append(found, &commandv1.Objective{
				Name: g.GetName() + "-" + d.name, Service: g.GetName(), Group: g.GetName(), Indicator: d.indicator, BoundSeconds: d.bound,
				Target: derivedTarget, PeriodMs: derivedPeriod.Milliseconds(), Advisory: true,
				Description: "From the bounds in the group's policy.", ModifyIndex: g.GetModifyIndex(),
			})
		}
	}
	return found
}

// objective by name: one that was put, or one that a group's policy sets.
func (s *state) objective(name string) *commandv1.Objective {
	if o, ok := s.objectives.get(name); ok {
		return o
	}
	for _, suffix := range []string{"-ttft", "-tpot", "-e2e"} {
		group, ok := strings.CutSuffix(name, suffix)
		if g, known := s.groups.get(group); ok && known {
			for _, o := range derived(g) {
				if o.GetName() == name {
					return o
				}
			}
		}
	}
	return nil
}

func (t *tx) putObjectives(cmd *commandv1.PutObjectives) (string, *Refusal) {
	if len(cmd.GetObjectives()) == 0 {
		return "", refuse(Invalid, "no objective was given")
	}
	if cmd.GetIfMatch() != 0 && len(cmd.GetObjectives()) > 1 {
		return "", refuse(Invalid, "a condition goes with one objective")
	}
	for _, o := range cmd.GetObjectives() {
		if refusal := t.putObjective(proto.CloneOf(o), cmd.GetIfMatch()); refusal != nil {
			return "", refusal
		}
	}
	if n := len(t.objectives.keys()); n > maxObjectives {
		return "", refuse(Invalid, "%d objectives; at most %d are kept", n, maxObjectives)
	}
	return cmd.GetObjectives()[0].GetName(), nil
}

func (t *tx) putObjective(o *commandv1.Objective, ifMatch uint64) *Refusal {
	o.Service = cmp.Or(o.GetService(), o.GetGroup(), o.GetModel())
	if refusal := checkObjective(o); refusal != nil {
		return refusal
	}
	old := t.objective(o.GetName())
	if ifMatch != 0 && ifMatch != old.GetModifyIndex() {
		return refuse(PreconditionFailed, "objective %s was changed meanwhile (it is at %d, you have %d): read it again", o.GetName(), old.GetModifyIndex(), ifMatch)
	}
	o.CreatedMs, o.CreatedBy, o.ModifyIndex = t.now, t.actor, t.entry
	if was, put := t.objectives.get(o.GetName()); put {
		o.CreatedMs, o.CreatedBy = was.GetCreatedMs(), was.GetCreatedBy()
		same := proto.CloneOf(o)
		if same.ModifyIndex = was.GetModifyIndex(); proto.Equal(same, was) {
			return nil
		}
	}
	if l, ok := t.ledgers.get(o.GetName()); ok && l.GetMeasure() != Measure(o) {
		t.ledgers.remove(o.GetName())
		t.closeViolations(o.GetName())
	}
	t.objectives.put(o.GetName(), o)
	t.event("slo", o.GetGroup(), o.GetName(), "%s set objective %s: %s", cmp.Or(t.actor, "someone"), o.GetName(), Promise(o))
	return nil
}

func (t *tx) deleteObjective(cmd *commandv1.DeleteObjective) (string, *Refusal) {
	o, ok := t.objectives.get(cmd.GetName())
	if !ok {
		if t.objective(cmd.GetName()) != nil {
			return "", refuse(Conflict, "objective %s comes from the bounds in its group's policy: take them out there, or put an objective of this name in its place", cmd.GetName())
		}
		return "", refuse(NotFound, "there is no objective %q", cmd.GetName())
	}
	if cmd.GetIfMatch() != 0 && cmd.GetIfMatch() != o.GetModifyIndex() {
		return "", refuse(PreconditionFailed, "objective %s was changed meanwhile (it is at %d, you have %d): read it again", o.GetName(), o.GetModifyIndex(), cmd.GetIfMatch())
	}
	t.objectives.remove(o.GetName())
	t.ledgers.remove(o.GetName())
	t.closeViolations(o.GetName())
	t.event("slo", o.GetGroup(), o.GetName(), "%s removed objective %s with its error budget", cmp.Or(t.actor, "someone"), o.GetName())
	return o.GetName(), nil
}

// Promise is an objective in words.
func Promise(o *commandv1.Objective) string {
	share := fmt.Sprintf("%g %% of ", 100*o.GetTarget())
	if o.GetSliceMs() > 0 {
		share += fmt.Sprintf("slices of %v have %g %% of ", time.Duration(o.GetSliceMs())*time.Millisecond, 100*o.GetSliceTarget())
	}
	over := fmt.Sprintf(" over %s", days(o.GetPeriodMs()))
	bound := fmt.Sprintf("%g s", o.GetBoundSeconds())
	switch o.GetIndicator() {
	case commandv1.Indicator_INDICATOR_AVAILABILITY:
		return share + "requests are answered without an error" + over
	case commandv1.Indicator_INDICATOR_TTFT:
		return share + "first tokens come within " + bound + over
	case commandv1.Indicator_INDICATOR_TPOT:
		return share + "requests take at most " + bound + " per output token" + over
	case commandv1.Indicator_INDICATOR_ITL:
		return share + "gaps between tokens are at most " + bound + over
	case commandv1.Indicator_INDICATOR_E2E:
		return share + "answers end within " + bound + over
	case commandv1.Indicator_INDICATOR_GOODPUT:
		return share + "requests have their first token within " + bound + fmt.Sprintf(" and at most %g s per output token", o.GetTpotBoundSeconds()) + over
	case commandv1.Indicator_INDICATOR_QUEUE_TIME:
		return share + "requests wait at most " + bound + over
	}
	return share + "what the query counts is good" + over
}

func days(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d d", int(d.Hours())/24)
	}
	return d.String()
}

// checkObjective refuses what cannot be counted or never be met.
func checkObjective(o *commandv1.Objective) *Refusal {
	name := o.GetName()
	switch {
	case !groupName.MatchString(name):
		return refuse(Invalid, "objective name %q: use 1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit", name)
	case slices.Contains(reservedObjectives, name):
		return refuse(Invalid, "objective name %q stands for a route of the interface; choose another", name)
	case o.GetGroup() != "" && o.GetModel() != "":
		return refuse(Invalid, "objective %s is for group %s and for model %s; choose one", name, o.GetGroup(), o.GetModel())
	case o.GetGroup() == "" && o.GetModel() == "" && o.GetIndicator() != commandv1.Indicator_INDICATOR_QUERY:
		return refuse(Invalid, "objective %s needs a group or a model to look at", name)
	case o.GetService() == "":
		return refuse(Invalid, "objective %s needs a service", name)
	case !(o.GetTarget() > 0 && o.GetTarget() < 1):
		return refuse(Invalid, "target %v of objective %s is a share of events between 0 and 1, such as 0.95", o.GetTarget(), name)
	case o.GetPeriodMs() < minPeriod.Milliseconds() || o.GetPeriodMs() > maxPeriod.Milliseconds() || o.GetPeriodMs()%minuteMs != 0:
		return refuse(Invalid, "period %v of objective %s: whole minutes, from one hour to 30 days", time.Duration(o.GetPeriodMs())*time.Millisecond, name)
	}
	for _, check := range []func(*commandv1.Objective) *Refusal{checkIndicator, checkSlices, checkAlerts} {
		if refusal := check(o); refusal != nil {
			return refusal
		}
	}
	return nil
}

func checkIndicator(o *commandv1.Objective) *Refusal {
	sane := func(v float64) bool { return v > 0 && v < 1e6 }
	q := o.GetQuery()
	switch o.GetIndicator() {
	case commandv1.Indicator_INDICATOR_AVAILABILITY:
		return nil
	case commandv1.Indicator_INDICATOR_GOODPUT:
		if !sane(o.GetBoundSeconds()) || !sane(o.GetTpotBoundSeconds()) {
			return refuse(Invalid, "goodput of objective %s needs two bounds in seconds: of the first token and per output token", o.GetName())
		}
		return nil
	case commandv1.Indicator_INDICATOR_QUERY:
		ratio := (q.GetGood() == "") != (q.GetBad() == "") && q.GetTotal() != "" && q.GetThreshold() == ""
		threshold := q.GetThreshold() != "" && q.GetGood() == "" && q.GetBad() == "" && q.GetTotal() == "" &&
			slices.Contains([]string{"lte", "lt", "gte", "gt"}, q.GetOp()) && !math.IsNaN(q.GetValue()) && !math.IsInf(q.GetValue(), 0)
		if !ratio && !threshold {
			return refuse(Invalid, "the query of objective %s needs good or bad with total, or threshold with op (lte, lt, gte, gt) and value", o.GetName())
		}
		return nil
	}
	if _, known := commandv1.Indicator_name[int32(o.GetIndicator())]; !known || o.GetIndicator() == commandv1.Indicator_INDICATOR_UNSPECIFIED {
		return refuse(Invalid, "objective %s has no indicator that this version knows", o.GetName())
	}
	if !sane(o.GetBoundSeconds()) {
		return refuse(Invalid, "bound %v of objective %s: use a positive number of seconds", o.GetBoundSeconds(), o.GetName())
	}
	return nil
}

func checkSlices(o *commandv1.Objective) *Refusal {
	slice := time.Duration(o.GetSliceMs()) * time.Millisecond
	switch {
	case slice == 0:
		return nil
	case slice < sliceStep || slice > maxSlice || slice%sliceStep != 0 || maxPeriod%slice != 0:
		return refuse(Invalid, "slices of %v: use a whole number of ten seconds, at most five minutes, that a month divides into", slice)
	case !(o.GetSliceTarget() > 0 && o.GetSliceTarget() <= 1):
		return refuse(Invalid, "slice target %v of objective %s is a share above 0, at most 1", o.GetSliceTarget(), o.GetName())
	}
	return nil
}

func checkAlerts(o *commandv1.Objective) *Refusal {
	if len(o.GetAlerts()) > maxAlerts {
		return refuse(Invalid, "%d alerts on objective %s; at most %d are kept", len(o.GetAlerts()), o.GetName(), maxAlerts)
	}
	names := map[string]bool{}
	for _, a := range o.GetAlerts() {
		switch most := 1 / (1 - o.GetTarget()); {
		case a.GetName() == "" || names[a.GetName()]:
			return refuse(Invalid, "the alerts of objective %s need names that differ", o.GetName())
		case a.GetLookbackMs() < time.Minute.Milliseconds() || a.GetLookbackMs() > min(maxLookback.Milliseconds(), o.GetPeriodMs()) || a.GetLookbackMs()%minuteMs != 0:
			return refuse(Invalid, "alert %s looks back over %v: whole minutes, from one to three days, and no longer than the objective's period", a.GetName(), time.Duration(a.GetLookbackMs())*time.Millisecond)
		case a.GetAfterMs() < 0 || a.GetAfterMs() > maxLookback.Milliseconds() || a.GetAfterMs()%minuteMs != 0:
			return refuse(Invalid, "alert %s waits for %v: whole minutes, from 0 to three days", a.GetName(), time.Duration(a.GetAfterMs())*time.Millisecond)
		case !(a.GetThreshold() > 0):
			return refuse(Invalid, "threshold %v of alert %s is a burn rate above 0", a.GetThreshold(), a.GetName())
		case a.GetThreshold() >= most:
			return refuse(Invalid, "alert %s could never fire: with a target of %g no burn rate exceeds %.4g, which is that of a total outage, and its threshold is %g", a.GetName(), o.GetTarget(), most, a.GetThreshold())
		}
		names[a.GetName()] = true
	}
	return nil
}
