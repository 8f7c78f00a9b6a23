package canarysim

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// certain is the confidence with which a count must contradict a target before a check fails: the seeds
// are fixed, so a check that passes goes on passing, and the bars print the counts themselves.
const certain = .99

// atMost fails when so many of runs alarms prove a rate above the target.
func atMost(t *testing.T, what string, alarms, runs int, target float64) {
	t.Helper()
	low, err := stats.RateAtLeast(alarms, runs, certain)
	if err != nil {
		t.Fatal(err)
	}
	if low > target {
		t.Errorf("%s: %d of %d runs, the target is %v", what, alarms, runs, target)
	}
}

// atLeast fails when so few of runs prove a rate below the target.
func atLeast(t *testing.T, what string, found, runs int, target float64) {
	t.Helper()
	high, err := stats.RateAtMost(found, runs, certain)
	if err != nil {
		t.Fatal(err)
	}
	if high < target {
		t.Errorf("%s: %d of %d runs, the target is %v", what, found, runs, target)
	}
}

func scenario(t *testing.T, name string) Scenario {
	t.Helper()
	for _, s := range Scenarios {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no scenario %s", name)
	return Scenario{}
}

func cellOf(t *testing.T, name string, o Options, runs int) Cell {
	t.Helper()
	c, err := Run(scenario(t, name), o, runs, 1)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Nothing changed: what must not alarm does not, what must pass passes, and the methods that everybody
// uses fail, so the simulation is hard enough.
func TestNothingChanged(t *testing.T) {
	for _, c := range []struct {
		scenario         string
		runs             int
		fast, slow, pass float64 // targets; 0 for none
	}{
		{"A", 100, .002, .01, .99}, {"B", 200, .01, .02, .50}, {"C", 150, .002, .02, 0}, {"E", 40, .002, .01, .90},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			cell := cellOf(t, c.scenario, Options{Factor: 1, Before: LeastBefore, Old: c.scenario == "B"}, c.runs)
			for _, row := range []Row{FastMedian, FastTail, FastEvents} {
				atMost(t, row.String(), cell.Alarms(row), c.runs, c.fast)
			}
			atMost(t, "slow", cell.Alarms(Slow), c.runs, c.slow)
			if c.pass > 0 {
				atLeast(t, "pass", cell.Alarms(Proof), c.runs, c.pass)
			}
			if c.scenario != "B" {
				return
			}
			for _, row := range []Row{Threshold, RankEach, RankOnce} {
				if cell.Share(row) < .25 {
					t.Errorf("%s alarms in %v of the runs only: the simulation is too easy", row, cell.Share(row))
				}
			}
		})
	}
}

// The worst replicas are told apart from a regression by margins from placebo, or not compared at all.
func TestPlaceboMargins(t *testing.T) {
	const runs = 80
	c := cellOf(t, "D", Options{Factor: 1, Before: FullBefore}, runs)
	for _, row := range []Row{PlaceboMedian, PlaceboTail, PlaceboEvents} {
		atMost(t, row.String(), c.Alarms(row), runs, .01)
	}
	if c.Alarms(FastMedian) < 5 {
		t.Errorf("without them %d alarms: nothing to repair", c.Alarms(FastMedian))
	}
	if equal := cellOf(t, "A", Options{Factor: 2, Before: FullBefore}, 30); equal.Unequal > 0 || equal.Alarms(PlaceboMedian) < 30 {
		t.Errorf("equal replicas: %d thought unequal, %d of 30 found at twice the latency", equal.Unequal, equal.Alarms(PlaceboMedian))
	}
}

// A change that changes something is found as soon as the design's table says, a look late at most with so
// few runs.
func TestDetection(t *testing.T) {
	runs := map[string]int{"A": 40, "B": 80, "C": 40, "E": 20}
	cells := map[string]map[float64]Cell{}
	for _, d := range Detections {
		if d.Scenario == "C" && testing.Short() {
			continue
		}
		if cells[d.Scenario] == nil {
			cells[d.Scenario] = map[float64]Cell{}
		}
		c, ok := cells[d.Scenario][d.Factor]
		if !ok {
			c = cellOf(t, d.Scenario, Options{Factor: d.Factor, Before: LeastBefore}, runs[d.Scenario])
			cells[d.Scenario][d.Factor] = c
		}
		if d.Power > 0 {
			atLeast(t, d.Scenario+" "+d.Row.String(), c.Alarms(d.Row), c.Runs, d.Power/1.2)
		}
		// Medians are steady with so few runs, 90th percentiles are for the bars.
		if late := (Detection{Scenario: d.Scenario, Row: d.Row, Factor: d.Factor, Median: d.Median, Power: d.Power}).Late(c); late > 1 {
			t.Errorf("%s %s at %v times: %d looks late, median %d s, reference %v s", d.Scenario, d.Row, d.Factor, late, c.After(d.Row, .5), d.Median)
		}
	}
}

// A check that cannot fail proves nothing: a test that alarms by itself is caught, and one that sleeps.
func TestChecksCatch(t *testing.T) {
	for alarms, caught := range map[int]bool{0: false, 2: false, 12: true} {
		if low, err := stats.RateAtLeast(alarms, 300, certain); err != nil || low > .01 != caught {
			t.Errorf("%d alarms of 300 at 1 %%: caught %v", alarms, !caught)
		}
	}
	asleep := Cell{Runs: 10}
	if d := Detections[0]; d.Late(asleep) < 100 {
		t.Errorf("what is never found is %d looks late", d.Late(asleep))
	}
	late := Cell{Runs: 2}
	late.times[FastMedian] = []int{20, 25}
	if got := (Detection{Row: FastMedian, Median: 10, P90: 20, Power: 1}).Late(late); got != 1 {
		t.Errorf("20 s where 12, so 15, are allowed: %d looks late", got)
	}
	if late.By(FastMedian, 20) != .5 || late.By(FastMedian, 19) != 0 || late.After(FastMedian, .9) != 25 {
		t.Errorf("by 20 s %v, by 19 s %v", late.By(FastMedian, 20), late.By(FastMedian, 19))
	}
}

func TestSameSeedSameRollout(t *testing.T) {
	s := scenario(t, "B")
	one, err := Watch(s, Options{Factor: 2, Before: LeastBefore, Old: true}, 7)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Watch(s, Options{Factor: 2, Before: LeastBefore, Old: true}, 7)
	if err != nil || one != again {
		t.Errorf("%+v and %+v, %v", one, again, err)
	}
}
