package main

import (
	"context"
	"fmt"
	"io"

	"github.com/optiinfra/performance-agent/pkg/stats"
	"github.com/optiinfra/performance-agent/pkg/stats/canary"
	"github.com/optiinfra/performance-agent/pkg/stats/canarysim"
)

const (
	r9Rollouts = 2000
	r9Deadline = 600 // seconds that a wave may take
	r9Seed     = 1
)

// falseRollbackBar prints how often rollouts that change nothing are taken back: first whole rollouts on
// replicas that drift, by every test at once, then each test alone against the design's table.
func falseRollbackBar(_ context.Context, _ string, out io.Writer) error {
	drifting := canarysim.Scenarios[1]
	var worst string
	var lines []string
	most := -1
	for _, p := range canarysim.Plans {
		ended, err := canarysim.RunWhole(drifting, p, 1, r9Deadline, r9Rollouts, r9Seed)
		if err != nil {
			return err
		}
		line, failed := r9Procedure(p, ended)
		lines = append(lines, line)
		if failed > most {
			most, worst = failed, fmt.Sprintf("value=%s unit=percent target<=0.2 floor<=1 simulated=true scenario=%s replicas=%d rollouts=%d seed=%d %s",
				percentOf(failed, len(ended)), drifting.Name, p.Replicas, len(ended), r9Seed, r9Interval(failed, len(ended)))
		}
	}
	fmt.Fprintf(out, "BAR R9 %s\n", worst)
	for _, l := range lines {
		fmt.Fprintln(out, l)
	}
	return nil
}

// r9Procedure is the line of one plan, and how many of its rollouts were taken back by evidence.
func r9Procedure(p canarysim.Plan, ended []canarysim.Ended) (line string, failed int) {
	var n [canary.Fail + 1]int
	unequal := 0
	for _, e := range ended {
		n[e.Outcome]++
		if e.Unequal {
			unequal++
		}
	}
	failed = n[canary.Fail]
	return fmt.Sprintf("BAR R9.group%d value=%s unit=percent target<=0.2 floor<=1 waves=%d passed=%d undecided_at_%ds=%d held=%d invalid=%d of_which_unequal=%d %s",
		p.Replicas, percentOf(failed, len(ended)), len(p.Waves), n[canary.Pass], r9Deadline, n[canary.Inconclusive], n[canary.Hold], n[canary.Invalid], unequal,
		r9Interval(failed, len(ended))), failed
}

func percentOf(k, n int) string { return fmt.Sprintf("%.2f", 100*float64(k)/float64(n)) }

// r9Interval is the exact 95 % interval of a share in per cent.
func r9Interval(k, n int) string {
	b, err := stats.ClopperPearson(k, n, .95)
	if err != nil {
		return "interval=none"
	}
	return fmt.Sprintf("interval=%.2f..%.2f", 100*b.Low, 100*b.High)
}
