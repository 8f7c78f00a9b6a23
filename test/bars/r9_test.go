package main

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/stats"
	"github.com/optiinfra/performance-agent/pkg/stats/canary"
	"github.com/optiinfra/performance-agent/pkg/stats/canarysim"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

func TestFalseRollbackLine(t *testing.T) {
	ended := []canarysim.Ended{
		{Outcome: canary.Pass}, {Outcome: canary.Fail}, {Outcome: canary.Hold}, {Outcome: canary.Invalid, Unequal: true},
	}
	line, failed := r9Procedure(canarysim.Plans[0], ended)
	checkLines(t, line)
	if failed != 1 || !strings.Contains(line, "value=25.00") || !strings.Contains(line, "of_which_unequal=1") {
		t.Errorf("%d failed: %s", failed, line)
	}
}

// A step is found with fewer requests than its target, on arrivals that come one a second.
func TestStepLines(t *testing.T) {
	trace := make([]workload.Request, 1000)
	for i := range trace {
		trace[i].Offset = time.Duration(i) * time.Second
	}
	var out bytes.Buffer
	c := t9Cases[2]
	c.seconds = 30
	if err := c.print(&out, "even", trace); err != nil {
		t.Fatal(err)
	}
	lines := checkLines(t, out.String())
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "BAR T9.even.step1to20 value=1") {
		t.Errorf("%q", lines)
	}
	threshold, err := stats.RateThreshold(c.from, c.alpha, c.horizon)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	if n, found, err := c.watch(r, 1, threshold); err != nil || !found || n > 5 {
		t.Errorf("only bad requests are found after %d, %v, %v", n, found, err)
	}
	if n, found, err := c.watch(r, 0, threshold); err != nil || found || n != c.horizon {
		t.Errorf("no bad request: found %v after %d, %v", found, n, err)
	}
}

func TestControlVariateLines(t *testing.T) {
	var out bytes.Buffer
	printT10(&out, []t10Cell{
		{trace: "conv", load: "load70", target: 3, saving: 9, covered: 390, plain: 380},
		{trace: "conv", load: "saturated", target: 10, saving: 2},
		{trace: "mooncake", load: "load70", target: 3, saving: 4},
	})
	if lines := checkLines(t, out.String()); len(lines) != 7 || !strings.HasPrefix(lines[0], "BAR T10 value=4.0 unit=factor target>=3") {
		t.Errorf("%q", lines)
	}
	out.Reset()
	printT10(&out, nil)
	checkLines(t, out.String())
}

// Dealing hands each request of a stretch to one arm, in order of time.
func TestDealt(t *testing.T) {
	b := &t10Bench{trace: make([]workload.Request, 4*t10Requests), mostPS: 2}
	for i := range b.trace {
		b.trace[i] = workload.Request{Offset: time.Duration(i) * time.Second, PromptTokens: i}
	}
	seen := map[int]bool{}
	for _, arm := range b.dealt(rand.New(rand.NewPCG(1, 1)), .5) {
		if len(arm) != t10Requests {
			t.Errorf("%d requests in an arm", len(arm))
		}
		for i, r := range arm {
			if seen[r.PromptTokens] || i > 0 && r.Offset < arm[i-1].Offset {
				t.Fatalf("request %d is dealt twice, or out of order", r.PromptTokens)
			}
			seen[r.PromptTokens] = true
		}
	}
}
