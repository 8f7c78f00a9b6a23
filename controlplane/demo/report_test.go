package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	at := func(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }
	all := []record{
		{Intended: at(0), FirstToken: at(0.2), LastToken: at(1.2), Done: at(1.2), Tokens: 101},          // good: 0.2 s, 10 ms
		{Intended: at(1), FirstToken: at(2), LastToken: at(3), Done: at(3), Tokens: 101},                // late first token
		{Intended: at(2), FirstToken: at(2.1), LastToken: at(9.1), Done: at(9.1), Tokens: 101},          // 70 ms per token
		{Intended: at(3), Done: at(4), Failed: "cut"},                                                   // lost
		{Intended: at(4), FirstToken: at(4.1), LastToken: at(20), Done: at(20), Tokens: 10},             // after the span
		{Intended: at(5), FirstToken: at(5.4), LastToken: at(5.4), Done: at(5.4), Tokens: 1},            // one token: no TPOT
		{Intended: at(-9), FirstToken: at(-8.9), LastToken: at(-8.5), Done: at(-8.5), Tokens: 1_000_00}, // before the span
	}
	m := summarize(all, t0, at(10))
	if m.Requests != 5 || m.Failed != 1 {
		t.Errorf("%d requests, %d failed; want 5 and 1", m.Requests, m.Failed)
	}
	if m.GoodShare != 2.0/5 || m.Goodput != 0.2 {
		t.Errorf("good share %v, goodput %v; want 0.4 and 0.2 a second", m.GoodShare, m.Goodput)
	}
	if m.TokensPerSecond != 30.4 {
		t.Errorf("tokens %v a second, want 30.4", m.TokensPerSecond)
	}
	if m.TTFT.P95 < 0.99 || m.TTFT.P95 > 1.01 {
		t.Errorf("TTFT p95 %v, want 1", m.TTFT.P95)
	}
}

func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		r    Report
		want string // part of the fault; empty: none
	}{
		"three times the goodput": {Report{GoodputFactor: 3}, ""},
		"a third of the latency":  {Report{GoodputFactor: 1, E2EP95Change: -0.7}, ""},
		"neither":                 {Report{GoodputFactor: 2.9, E2EP95Change: -0.5}, "the aim is ×3"},
		"a lost request":          {Report{GoodputFactor: 9, Lost: 1}, "1 requests were lost"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.r.verdict()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("verdict %v, want %q", err, c.want)
			}
		})
	}
}

func TestReportSaysSimulated(t *testing.T) {
	r := Report{Before: Measured{Goodput: 1}, After: Measured{Goodput: 4}}
	var out bytes.Buffer
	r.print(&out)
	if !strings.HasPrefix(strings.TrimSpace(out.String()), "SIMULATED") || !strings.Contains(out.String(), "goodput ×4.00") {
		t.Errorf("table:\n%s", out.String())
	}
}
