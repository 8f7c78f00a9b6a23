package slo

import (
	"fmt"
	"math"
	"time"

	"github.com/optiinfra/performance-agent/pkg/stats"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Rule fires when the budget burns at Burn times its even pace or faster, over Long and over Short.
type Rule struct {
	Name     string
	Severity string
	Long     time.Duration
	Short    time.Duration
	Burn     float64
	After    time.Duration // how long it must hold
}

// shortPart of the long window is the short one, which ends an alert soon after the burning ends.
const shortPart = 12

// usual rules: what share of the budget, burned within which window, is worth a page or a ticket.
// (Site Reliability Workbook, chapter 5, with a further ticket at a day.)
var usual = []struct {
	name, severity string
	share          float64
	long           time.Duration
}{
	{"page-1h", "page", 0.02, time.Hour},
	{"page-6h", "page", 0.05, 6 * time.Hour},
	{"ticket-1d", "ticket", 0.10, 24 * time.Hour},
	{"ticket-3d", "ticket", 0.10, 72 * time.Hour},
}

// Rules of an objective: its own, else the usual ones. Of a shorter period than 30 days the usual windows
// burn the same share at a lower rate; below 1 a budget lasts, so no threshold is lower.
func Rules(o *commandv1.Objective) (rules []Rule) {
	for _, a := range o.GetAlerts() {
		long := time.Duration(a.GetLookbackMs()) * time.Millisecond
		rules = append(rules, Rule{
			Name: a.GetName(), Severity: a.GetSeverity(), Long: long, Short: short(long), Burn: a.GetThreshold(),
			After: time.Duration(a.GetAfterMs()) * time.Millisecond,
		})
	}
	if len(rules) > 0 {
		return rules
	}
	period := periodOf(o)
	for _, u := range usual {
		if u.long <= period {
			rules = append(rules, Rule{
				Name: u.name, Severity: u.severity, Long: u.long, Short: short(u.long),
				Burn: max(1, u.share*float64(period)/float64(u.long)),
			})
		}
	}
	return rules
}

func short(long time.Duration) time.Duration { return max(long/shortPart, slotLength) }

func periodOf(o *commandv1.Objective) time.Duration {
	return time.Duration(o.GetPeriodMs()) * time.Millisecond
}

// Burn is the rate at which a stretch used the budget up: 1 lasts exactly the period. NaN without events.
func Burn(c Counts, target float64) float64 {
	if c.Total() == 0 {
		return math.NaN()
	}
	return c.Bad / c.Total() / (1 - target)
}

// Events that must be there, and confidence that is asked, before a ratio of them alerts anybody.
const (
	leastEvents = 20
	sure        = 0.999
)

// Fires reports whether the rule's windows say so: both burn, and the long one holds enough events to be
// sure of it.
func (r Rule) Fires(target float64, long, short Counts) bool {
	return Burn(long, target) > r.Burn && Burn(short, target) > r.Burn && surely(long, r.Burn*(1-target))
}

// surely reports whether the exact lower bound of the share of bad events exceeds ratio. Fractions of
// events, which sketches of histograms hold, do not count as bad ones.
func surely(c Counts, ratio float64) bool {
	if c.Total() < leastEvents {
		return false
	}
	low, err := stats.RateAtLeast(int(c.Bad), int(math.Ceil(c.Total())), sure)
	return err == nil && low > ratio
}

// leastAbsence is how long a series must be missing before its absence says anything.
const leastAbsence = 30 * time.Second

// AbsenceAfter is how long nothing may be known of an objective before that alerts: the time in which an
// outage that nobody sees would burn a hundredth of the budget.
func AbsenceAfter(o *commandv1.Objective) time.Duration {
	return max(leastAbsence, time.Duration(0.01*(1-o.GetTarget())*float64(periodOf(o))))
}

// Budget of one period.
type Budget struct {
	Counts
	// Allowed is how many bad events the whole period allows at the traffic seen so far; NaN: none was.
	Allowed float64
	// Spent share of what the whole period allows; 1 is all.
	Spent float64
}

// Left share; below 0 when more was spent than there was.
func (b Budget) Left() float64 { return 1 - b.Spent }

// BudgetOf an objective that counted c within its period. What it has spent is a share of the whole
// period's budget, although only part of the period may be known: burning at 20 for a thirtieth of it
// costs two thirds. A handful of events costs nothing: they prove nothing.
func BudgetOf(o *commandv1.Objective, c Counts) Budget {
	b := Budget{Counts: c, Allowed: math.NaN()}
	if c.Total() < leastEvents || c.Known <= 0 {
		return b
	}
	known := min(1, float64(c.Known)/float64(periodOf(o)))
	b.Allowed = (1 - o.GetTarget()) * c.Total() / known
	b.Spent = c.Bad / b.Allowed
	return b
}

// percent of a share, in words.
func percent(share float64) string { return fmt.Sprintf("%.3g %%", 100*share) }
