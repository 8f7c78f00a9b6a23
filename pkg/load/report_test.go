package load

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

func records(start time.Time) []Record {
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	ok := func(due, first, last float64, tokens int) Record {
		r := Record{Intended: at(due), Sent: at(due + .01), PromptTokens: 7}
		r.First(at(first))
		for i := 1; i < tokens; i++ {
			r.Tokens++
			r.Token(at(first + (last-first)*float64(i)/float64(tokens-1)))
		}
		r.Tokens, r.LastToken, r.Done = tokens, at(last), at(last)
		return r
	}
	failed := Record{Intended: at(6), Sent: at(6), Done: at(7), Failed: FailedCut}
	return []Record{ok(1, 2, 3, 5), ok(8, 8.5, 9.5, 11), failed, ok(5.5, 6, 7, 5)}
}

func TestCollector(t *testing.T) {
	start := time.Unix(1000, 0)
	p := plan(func(p *Plan) { p.Duration = 10; p.Objectives = Objectives{TTFT: 600 * time.Millisecond} })
	c := NewCollector(p, start)
	for _, r := range records(start) {
		c.Add(r)
	}
	r, err := c.Report(Subject{Kind: "vllm"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	s := r.Summary
	if r.LeftOut != 1 || s.Requests != 3 || s.Failed != 1 || s.Good != 2 || s.Seconds != 10 || s.GoodputPerSec != .2 {
		t.Errorf("left out %d, %+v", r.LeftOut, s)
	}
	if s.ITL.Count != 14 || math.Abs(s.ITL.Mean-2./14) > 1e-6 || s.PeakOutputTokens < 5 {
		t.Errorf("between tokens %+v, peak %d", s.ITL, s.PeakOutputTokens)
	}
	if got := r.Requests; got.DueUS[0] != 500_000 || got.Failed[1] != FailedCut || got.TTFTUS[2] != 500_000 || got.LateUS[0] != 10_000 {
		t.Errorf("columns %+v", got)
	}
	if tpot, ok := r.Requests.TPOT(0); !ok || math.Abs(tpot-.25) > 1e-9 {
		t.Errorf("TPOT %v %v", tpot, ok)
	}
	if share, counts := c.FailedShare(); share != .25 || counts {
		t.Errorf("%v of the requests failed, counts %v", share, counts)
	}
	sketchesHold(t, r)
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(raw, &back); err != nil || back.Check() != nil || back.Requests.Failed[1] != FailedCut {
		t.Errorf("%v, %v", err, back.Check())
	}
}

func sketchesHold(t *testing.T, r *Report) {
	t.Helper()
	for _, s := range r.Sketches {
		sk, err := stats.UnmarshalSketch(s.DDSketch, s.Sum)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]float64{fleet.TTFT: 2, fleet.TPOT: 2, fleet.ITL: 14, fleet.E2E: 2}[s.Metric]; sk.Count() != want {
			t.Errorf("%s holds %v values, not %v", s.Metric, sk.Count(), want)
		}
	}
}

// TestCheck: what a wire may bring is refused when it contradicts itself.
func TestCheck(t *testing.T) {
	good := func() *Report {
		c := NewCollector(plan(nil), time.Unix(1000, 0))
		for _, r := range records(time.Unix(1000, 0)) {
			c.Add(r)
		}
		r, err := c.Report(Subject{}, "")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, spoil := range map[string]func(*Report){
		"column":  func(r *Report) { r.Requests.Tokens = r.Requests.Tokens[1:] },
		"count":   func(r *Report) { r.Summary.Requests++ },
		"order":   func(r *Report) { r.Requests.TTFTUS[0] = 1 << 40 },
		"sketch":  func(r *Report) { r.Sketches[0].DDSketch = []byte("x") },
		"minus":   func(r *Report) { r.Requests.Tokens[0] = -1 },
		"nothing": func(r *Report) { r.Requests = Columns{} },
	} {
		r := good()
		if spoil(r); r.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
