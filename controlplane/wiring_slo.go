package main

import (
	"math"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/slo"
	"github.com/optiinfra/performance-agent/controlplane/slo/openslo"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// promises shows objectives to the REST interface.
type promises struct{ *slo.Service }

var _ api.Promises = promises{}

// Standing implements api.Promises.
func (p promises) Standing(o *commandv1.Objective) api.Standing {
	st := p.StatusOf(o)
	out := api.Standing{
		State: string(st.State), Alerts: []api.AlertStanding{}, Through: timeOrNil(st.Through), Known: timeOrNil(st.Known), AbsenceAlertAfterS: st.AbsenceAfter.Seconds(),
		Budget: api.Budget{
			Good: st.Budget.Good, Bad: st.Budget.Bad, Allowed: numberOrNil(st.Budget.Allowed), Spent: st.Budget.Spent, Left: st.Budget.Left(),
			KnownSeconds: st.Budget.Known.Seconds(),
		},
	}
	for _, a := range st.Alerts {
		out.Alerts = append(out.Alerts, api.AlertStanding{
			Name: a.Name, Severity: a.Severity, LongSeconds: a.Long.Seconds(), ShortSeconds: a.Short.Seconds(), Threshold: a.Burn,
			LongBurn: numberOrNil(a.LongBurn), ShortBurn: numberOrNil(a.ShortBurn), Events: a.Events, Firing: timeOrNil(a.Firing),
		})
	}
	return out
}

// Import implements api.Promises.
func (promises) Import(raw []byte) ([]*commandv1.Objective, []string, error) {
	r, err := openslo.Read(raw)
	return r.Objectives, r.Remarks, err
}

// Export implements api.Promises.
func (promises) Export(objectives []*commandv1.Objective) ([]byte, error) {
	return openslo.Write(objectives)
}

// Query implements api.Promises.
func (promises) Query(text string) (string, error) { return openslo.Query(text) }

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func numberOrNil(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}
