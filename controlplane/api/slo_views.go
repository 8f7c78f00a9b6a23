package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// ObjectiveSpec is what was promised.
type ObjectiveSpec struct {
	Name             string      `json:"name,omitempty" maxLength:"63"`
	Service          string      `json:"service,omitempty" doc:"whose error budget it guards; the group or model when absent"`
	Group            string      `json:"group,omitempty" doc:"engines of a group, or"`
	Model            string      `json:"model,omitempty" doc:"engines that serve a model"`
	Indicator        string      `json:"indicator" enum:"availability,ttft,tpot,itl,e2e,goodput,queue_time,query"`
	BoundSeconds     float64     `json:"bound_seconds,omitempty" minimum:"0" doc:"of a latency; of the first token for goodput"`
	TPOTBoundSeconds float64     `json:"tpot_bound_seconds,omitempty" minimum:"0" doc:"goodput's second bound"`
	Query            *SLOQuery   `json:"query,omitempty" doc:"of the indicator query"`
	Target           float64     `json:"target" doc:"share of events that must be good, such as 0.95"`
	PeriodSeconds    float64     `json:"period_seconds,omitempty" minimum:"0" doc:"over which the budget is reckoned; it rolls; 30 days when absent"`
	SliceSeconds     float64     `json:"slice_seconds,omitempty" minimum:"0" doc:"events are slices of this length; 0: they are requests"`
	SliceTarget      float64     `json:"slice_target,omitempty" minimum:"0" doc:"share that must be good for a slice to be"`
	Alerts           []BurnAlert `json:"alerts,omitempty" doc:"in place of the usual four"`
	Advisory         bool        `json:"advisory,omitempty" doc:"it alerts, and gates no rollout"`
	DisplayName      string      `json:"display_name,omitempty" maxLength:"200"`
	Description      string      `json:"description,omitempty" maxLength:"1050"`
}

// SLOQuery counts events by PromQL over the history.
type SLOQuery struct {
	Good      string  `json:"good,omitempty" doc:"total that only grows, of good events"`
	Bad       string  `json:"bad,omitempty" doc:"total that only grows, of bad ones, instead"`
	Total     string  `json:"total,omitempty" doc:"total that only grows, of all"`
	Threshold string  `json:"threshold,omitempty" doc:"instead of these: every series is an event at every look"`
	Op        string  `json:"op,omitempty" enum:"lte,lt,gte,gt"`
	Value     float64 `json:"value,omitempty"`
}

// BurnAlert fires when the budget burns faster than threshold over lookback and over a twelfth of it.
type BurnAlert struct {
	Name            string  `json:"name"`
	Severity        string  `json:"severity"`
	LookbackSeconds float64 `json:"lookback_seconds"`
	AfterSeconds    float64 `json:"after_seconds,omitempty" minimum:"0"`
	Threshold       float64 `json:"threshold"`
}

// Objective is what was promised, and how it stands.
type Objective struct {
	ObjectiveSpec
	Promise     string   `json:"promise" doc:"in words"`
	ModifyIndex uint64   `json:"modify_index"`
	Standing    Standing `json:"standing"`
}

// Standing of an objective.
type Standing struct {
	State  string `json:"state" enum:"met,burning,exhausted,unknown"`
	Budget Budget `json:"budget"`
	// Alerts as they stand; none on a node that does not lead.
	Alerts             []AlertStanding `json:"alerts"`
	Through            *time.Time      `json:"through" doc:"up to when events are counted"`
	Known              *time.Time      `json:"known" doc:"when something was last measured; null: never"`
	AbsenceAlertAfterS float64         `json:"absence_alert_after_seconds" doc:"how long nothing may be known before that alerts"`
}

// Budget of a period.
type Budget struct {
	Good         float64  `json:"good"`
	Bad          float64  `json:"bad"`
	Allowed      *float64 `json:"allowed" doc:"bad events that the period allows at the traffic seen; null: too little was seen"`
	Spent        float64  `json:"spent" doc:"share of the period's budget; 1 is all"`
	Left         float64  `json:"left"`
	KnownSeconds float64  `json:"known_seconds" doc:"for how much of the period there was telemetry"`
}

// AlertStanding is an alert of an objective.
type AlertStanding struct {
	Name         string     `json:"name"`
	Severity     string     `json:"severity"`
	LongSeconds  float64    `json:"long_seconds"`
	ShortSeconds float64    `json:"short_seconds"`
	Threshold    float64    `json:"threshold"`
	LongBurn     *float64   `json:"long_burn" doc:"null: no event"`
	ShortBurn    *float64   `json:"short_burn"`
	Events       float64    `json:"events" doc:"in the long window; fewer than 20 fire nothing"`
	Firing       *time.Time `json:"firing" doc:"since when; null: it does not"`
}

// BudgetOf an objective.
type BudgetOf struct {
	Objective string       `json:"objective"`
	Service   string       `json:"service"`
	Group     string       `json:"group,omitempty"`
	Promise   string       `json:"promise"`
	State     string       `json:"state"`
	Advisory  bool         `json:"advisory"`
	Budget    Budget       `json:"budget"`
	Policy    BudgetPolicy `json:"policy"`
}

// BudgetPolicy says what rollouts may do with what is left of a service's error budget. Fields left out
// of a change keep their value.
type BudgetPolicy struct {
	Mode            string  `json:"mode,omitempty" enum:"enforce,off"`
	CarefulBelow    float64 `json:"careful_below,omitempty" minimum:"0" maximum:"1" doc:"share left, at or below which the first wave has its least size and the bake is twice as long"`
	RestrictedBelow float64 `json:"restricted_below,omitempty" minimum:"0" maximum:"1" doc:"share left, at or below which only changes without a restart, and approved ones, start"`
	SpendCap        float64 `json:"spend_cap,omitempty" minimum:"0" maximum:"1" doc:"share of a period's budget that one rollout may cost"`
}

// FiringAlert is an alert that fires now.
type FiringAlert struct {
	Objective string    `json:"objective"`
	Service   string    `json:"service"`
	Group     string    `json:"group,omitempty"`
	Alert     string    `json:"alert"`
	Severity  string    `json:"severity"`
	Since     time.Time `json:"since"`
	Burn      float64   `json:"burn"`
	Threshold float64   `json:"threshold"`
	Violation string    `json:"violation"`
	Summary   string    `json:"summary"`
}

// Violation is a time in which alerts of an objective fired.
type Violation struct {
	ID         string           `json:"id"`
	Objective  string           `json:"objective"`
	Service    string           `json:"service"`
	Group      string           `json:"group,omitempty"`
	Kind       string           `json:"kind" enum:"burn,absence"`
	Start      time.Time        `json:"start" doc:"of the bad stretch that led to it"`
	Detected   time.Time        `json:"detected"`
	End        *time.Time       `json:"end" doc:"null while it lasts"`
	Summary    string           `json:"summary"`
	Cause      string           `json:"cause,omitempty" doc:"what analysis named when it was detected: a guess"`
	CauseClass string           `json:"cause_class,omitempty"`
	RolloutID  string           `json:"rollout_id,omitempty" doc:"that was changing the group at its start"`
	Bad        float64          `json:"bad"`
	Total      float64          `json:"total"`
	PeakBurn   float64          `json:"peak_burn"`
	Alerts     []ViolationAlert `json:"alerts"`
}

// ViolationAlert is one alert within a violation.
type ViolationAlert struct {
	Name     string     `json:"name"`
	Severity string     `json:"severity"`
	Since    time.Time  `json:"since"`
	Until    *time.Time `json:"until"`
}

// BudgetSpend is what a rollout's changed replicas cost an error budget.
type BudgetSpend struct {
	Objective string  `json:"objective"`
	Bad       float64 `json:"bad"`
	Total     float64 `json:"total"`
	Excess    float64 `json:"excess" doc:"bad events beyond what the controls' rate makes expect"`
	Share     float64 `json:"share" doc:"of a period's budget"`
	AtLeast   float64 `json:"share_at_least" doc:"its lower bound"`
}

// Imported tells what came of documents.
type Imported struct {
	Objectives []string `json:"objectives"`
	Remarks    []string `json:"remarks"`
	DryRun     bool     `json:"dry_run"`
}

// RemovedObjective names what is gone.
type RemovedObjective struct {
	Name string `json:"name"`
}

// usualPeriod of a budget.
const usualPeriod = 30 * 24 * time.Hour

// objectiveOf a request; queries are parsed and rendered anew.
func (s *Server) objectiveOf(spec ObjectiveSpec) (*commandv1.Objective, error) {
	o := &commandv1.Objective{
		Name: spec.Name, Service: spec.Service, Group: spec.Group, Model: spec.Model,
		Indicator:    commandv1.Indicator(commandv1.Indicator_value["INDICATOR_"+strings.ToUpper(spec.Indicator)]),
		BoundSeconds: spec.BoundSeconds, TpotBoundSeconds: spec.TPOTBoundSeconds, Target: spec.Target,
		PeriodMs: msOf(spec.PeriodSeconds), SliceMs: msOf(spec.SliceSeconds), SliceTarget: spec.SliceTarget,
		Advisory: spec.Advisory, DisplayName: spec.DisplayName, Description: spec.Description,
	}
	if o.PeriodMs == 0 {
		o.PeriodMs = usualPeriod.Milliseconds()
	}
	for _, a := range spec.Alerts {
		o.Alerts = append(o.Alerts, &commandv1.BurnAlert{
			Name: a.Name, Severity: a.Severity, LookbackMs: msOf(a.LookbackSeconds), AfterMs: msOf(a.AfterSeconds), Threshold: a.Threshold,
		})
	}
	if q := spec.Query; q != nil {
		o.Query = &commandv1.Query{Good: q.Good, Bad: q.Bad, Total: q.Total, Threshold: q.Threshold, Op: q.Op, Value: q.Value}
		for _, text := range []*string{&o.Query.Good, &o.Query.Bad, &o.Query.Total, &o.Query.Threshold} {
			if *text == "" {
				continue
			}
			normal, err := s.promises.Query(*text)
			if err != nil {
				return nil, newProblem(http.StatusUnprocessableEntity, err.Error())
			}
			*text = normal
		}
	}
	return o, nil
}

func (s *Server) objectiveView(o *commandv1.Objective) Objective {
	spec := ObjectiveSpec{
		Name: o.GetName(), Service: o.GetService(), Group: o.GetGroup(), Model: o.GetModel(), Indicator: enumWord(o.GetIndicator(), "INDICATOR_"),
		BoundSeconds: o.GetBoundSeconds(), TPOTBoundSeconds: o.GetTpotBoundSeconds(), Target: o.GetTarget(), PeriodSeconds: seconds(o.GetPeriodMs()),
		SliceSeconds: seconds(o.GetSliceMs()), SliceTarget: o.GetSliceTarget(), Advisory: o.GetAdvisory(), DisplayName: o.GetDisplayName(), Description: o.GetDescription(),
	}
	if q := o.GetQuery(); q != nil {
		spec.Query = &SLOQuery{Good: q.GetGood(), Bad: q.GetBad(), Total: q.GetTotal(), Threshold: q.GetThreshold(), Op: q.GetOp(), Value: q.GetValue()}
	}
	for _, a := range o.GetAlerts() {
		spec.Alerts = append(spec.Alerts, BurnAlert{
			Name: a.GetName(), Severity: a.GetSeverity(), LookbackSeconds: seconds(a.GetLookbackMs()), AfterSeconds: seconds(a.GetAfterMs()), Threshold: a.GetThreshold(),
		})
	}
	return Objective{ObjectiveSpec: spec, Promise: fsm.Promise(o), ModifyIndex: o.GetModifyIndex(), Standing: s.promises.Standing(o)}
}

func budgetPolicyView(p *commandv1.BudgetPolicy) BudgetPolicy {
	return BudgetPolicy{Mode: enumWord(p.GetMode(), "BUDGET_MODE_"), CarefulBelow: p.GetCarefulBelow(), RestrictedBelow: p.GetRestrictedBelow(), SpendCap: p.GetSpendCap()}
}

func violationView(v *commandv1.Violation) Violation {
	out := Violation{
		ID: v.GetId(), Objective: v.GetObjective(), Service: v.GetService(), Group: v.GetGroup(), Kind: enumWord(v.GetKind(), "VIOLATION_KIND_"),
		Start: at(v.GetStartMs()), Detected: at(v.GetDetectedMs()), End: atOrNil(v.GetEndMs()), Summary: v.GetSummary(),
		Cause: v.GetCause(), CauseClass: v.GetCauseClass(), RolloutID: v.GetRolloutId(), Bad: v.GetBad(), Total: v.GetTotal(), PeakBurn: v.GetPeakBurn(),
		Alerts: []ViolationAlert{},
	}
	for _, a := range v.GetAlerts() {
		out.Alerts = append(out.Alerts, ViolationAlert{Name: a.GetName(), Severity: a.GetSeverity(), Since: at(a.GetSinceMs()), Until: atOrNil(a.GetUntilMs())})
	}
	return out
}

func (s *Server) spendViews(r *commandv1.Rollout) (found []BudgetSpend) {
	if s.promises == nil {
		return nil
	}
	for _, b := range s.promises.Spent(r) {
		found = append(found, BudgetSpend{Objective: b.GetObjective(), Bad: b.GetBad(), Total: b.GetTotal(), Excess: b.GetExcess(), Share: b.GetShare(), AtLeast: b.GetShareLow()})
	}
	return found
}

// budgetWords of a rollout that began with little error budget; empty otherwise.
func budgetWords(r *commandv1.Rollout) string {
	if !fsm.Careful(r) {
		return ""
	}
	return fmt.Sprintf("%s: %s", enumWord(r.GetBudget().GetClass(), "BUDGET_CLASS_"), r.GetBudget().GetReason())
}
