package slo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// TestUsualRules is the first table of slo.md §2.
func TestUsualRules(t *testing.T) {
	var got string
	for _, r := range Rules(fast("o")) {
		got += fmt.Sprintf("%s %v/%v %.4g %s\n", r.Name, r.Long, r.Short, r.Burn, r.Severity)
	}
	want := "page-1h 1h0m0s/5m0s 14.4 page\npage-6h 6h0m0s/30m0s 6 page\nticket-1d 24h0m0s/2h0m0s 3 ticket\nticket-3d 72h0m0s/6h0m0s 1 ticket\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestRulesOfShortPeriods(t *testing.T) {
	o := fast("o")
	for _, c := range []struct {
		period time.Duration
		want   string
	}{
		{28 * 24 * time.Hour, "1h0m0s>13.44 6h0m0s>5.6 24h0m0s>2.8 72h0m0s>1 "},
		{7 * 24 * time.Hour, "1h0m0s>3.36 6h0m0s>1.4 24h0m0s>1 72h0m0s>1 "},
		{24 * time.Hour, "1h0m0s>1 6h0m0s>1 24h0m0s>1 "},
		{time.Hour, "1h0m0s>1 "},
	} {
		o.PeriodMs = c.period.Milliseconds()
		got := ""
		for _, r := range Rules(o) {
			got += fmt.Sprintf("%v>%.4g ", r.Long, r.Burn)
		}
		if got != c.want {
			t.Errorf("%v: %s, want %s", c.period, got, c.want)
		}
	}
}

// TestTimeToTrip is the second table of slo.md §2: a service that was well all the time turns bad, and
// the one-hour page fires after w b (1 − objective) ÷ bad ratio, or never.
func TestTimeToTrip(t *testing.T) {
	const never = time.Duration(math.MaxInt64)
	for _, c := range []struct {
		target, bad float64
		want        time.Duration
	}{
		{0.999, 1, 52 * time.Second},
		{0.999, 0.1, 8*time.Minute + 38*time.Second},
		{0.99, 1, 8*time.Minute + 38*time.Second},
		{0.99, 0.1, never},
		{0.95, 1, 43*time.Minute + 12*time.Second},
		{0.95, 0.1, never},
	} {
		t.Run(fmt.Sprintf("%g %% with %g %% bad", 100*c.target, 100*c.bad), func(t *testing.T) {
			page := Rules(fast("o"))[0]
			r := newRing(1)
			for n := int64(1); n <= 360; n++ {
				r.put(n, cell{good: 10_000, known: true})
			}
			got := never
			for n := int64(361); n <= 1100 && got == never; n++ {
				r.put(n, cell{good: 10_000 * (1 - c.bad), bad: 10_000 * c.bad, known: true})
				long, short := r.sum(n+1-360, n+1, slicing{}), r.sum(n+1-30, n+1, slicing{})
				if page.Fires(c.target, long, short) {
					got = time.Duration(n-360) * slotLength
				}
			}
			if c.want == never && got != never || c.want != never && (got < c.want || got > c.want+slotLength+c.want/50) {
				t.Errorf("fires after %v, want %v and at most a slot more", got, c.want)
			}
		})
	}
}

// TestBurnEndsSoon: the short window ends an alert within minutes although the long one still burns.
func TestBurnEndsSoon(t *testing.T) {
	r := newRing(1)
	for n := int64(1); n <= 360; n++ {
		r.put(n, cell{bad: 10, known: true})
	}
	page := Rules(fast("o"))[0]
	for n := int64(361); ; n++ {
		r.put(n, cell{good: 10, known: true})
		if !page.Fires(0.95, r.sum(n+1-360, n+1, slicing{}), r.sum(n+1-30, n+1, slicing{})) {
			if took := time.Duration(n-360) * slotLength; took > 5*time.Minute {
				t.Errorf("the alert ends %v after the burning", took)
			}
			return
		}
	}
}

// TestTinyTotals: whatever a handful of events shows, nothing fires.
func TestTinyTotals(t *testing.T) {
	for total := range leastEvents {
		c := Counts{Bad: float64(total), Known: time.Hour}
		for _, r := range Rules(fast("o")) {
			if r.Fires(0.999, c, c) {
				t.Errorf("%d of %d bad events fire %s", total, total, r.Name)
			}
		}
	}
	enough := Counts{Bad: 30, Known: time.Hour}
	if !Rules(fast("o"))[0].Fires(0.999, enough, enough) {
		t.Error("thirty of thirty bad events do not fire: the test proves nothing")
	}
}

// TestChanceFiresRarely: a service whose true rate of bad events lies at the threshold fires in no more
// than a thousandth of the looks, at any traffic; without the bound, in about half.
func TestChanceFiresRarely(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	page := Rules(fast("o"))[0]
	const target, looks = 0.99, 20_000
	rate := page.Burn * (1 - target)
	for _, n := range []int{25, 100, 1000} {
		fired, over := 0, 0
		for range looks {
			var c Counts
			for range n {
				if rng.Float64() < rate {
					c.Bad++
				} else {
					c.Good++
				}
			}
			if Burn(c, target) > page.Burn {
				over++
			}
			if page.Fires(target, c, c) {
				fired++
			}
		}
		if share := float64(fired) / looks; share > 0.0016 { // a thousandth and three standard deviations
			t.Errorf("%d events: fires in %g of the looks", n, share)
		}
		if share := float64(over) / looks; share < 0.3 {
			t.Errorf("%d events: the plain ratio is over the threshold in %g of the looks; the test proves little", n, share)
		}
	}
}

func TestAbsenceAfter(t *testing.T) {
	for _, c := range []struct {
		target float64
		period time.Duration
		want   time.Duration
	}{
		{0.95, 30 * 24 * time.Hour, 21*time.Minute + 36*time.Second},
		{0.99, 30 * 24 * time.Hour, 4*time.Minute + 19200*time.Millisecond},
		{0.999, 30 * 24 * time.Hour, 30 * time.Second}, // 26 s would be within what is late anyway
		{0.95, time.Hour, 30 * time.Second},
	} {
		o := &commandv1.Objective{Target: c.target, PeriodMs: c.period.Milliseconds()}
		if got := AbsenceAfter(o); got.Round(time.Millisecond) != c.want {
			t.Errorf("%v over %v: %v, want %v", c.target, c.period, got, c.want)
		}
	}
}

func TestBudgetOf(t *testing.T) {
	month := 30 * 24 * time.Hour
	for _, c := range []struct {
		name   string
		counts Counts
		spent  float64
	}{
		{"nothing yet", Counts{}, 0},
		{"a handful", Counts{Bad: 19, Known: time.Hour}, 0},
		{"a month at its limit", Counts{Good: 9500, Bad: 500, Known: month}, 1},
		{"a month at half of it", Counts{Good: 9750, Bad: 250, Known: month}, 0.5},
		{"a day of outage", Counts{Bad: 1000, Known: month / 30}, 20. / 30},
		{"more known than the period is long", Counts{Good: 9500, Bad: 500, Known: 2 * month}, 1},
	} {
		if b := BudgetOf(fast("o"), c.counts); !near(b.Spent, c.spent, 1e-9) {
			t.Errorf("%s: spent %v, want %v", c.name, b.Spent, c.spent)
		}
	}
}

func TestExcess(t *testing.T) {
	for _, c := range []struct {
		name            string
		canary, control Counts
		excess          float64
		certain         bool
	}{
		{"no controls", Counts{Bad: 50}, Counts{}, 0, false},
		{"as the controls", Counts{Good: 90, Bad: 10}, Counts{Good: 900, Bad: 100}, 0, false},
		{"better", Counts{Good: 100}, Counts{Good: 900, Bad: 100}, -10, false},
		{"a little worse may be chance", Counts{Good: 88, Bad: 12}, Counts{Good: 900, Bad: 100}, 2, false},
		{"worse", Counts{Good: 500, Bad: 500}, Counts{Good: 900, Bad: 100}, 400, true},
	} {
		excess, low := Excess(c.canary, c.control)
		if !near(excess, c.excess, 1e-9) || (low > 0) != c.certain || low > max(0, excess) {
			t.Errorf("%s: excess %v, at least %v", c.name, excess, low)
		}
	}
}
