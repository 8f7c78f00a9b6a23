package story

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/optiinfra/performance-agent/test/real/demo/stage"
)

// Report of a run on real engines.
type Report struct {
	Engine      string            `json:"engine"`
	Version     string            `json:"version"`
	Scenario    string            `json:"scenario"`
	Replicas    int               `json:"replicas"`
	Flags       []string          `json:"bad_flags"`
	Traffic     stage.Traffic     `json:"traffic"`
	Finding     string            `json:"finding"`
	Class       string            `json:"class"`
	Proposal    string            `json:"proposal"`
	CommandLine string            `json:"command_line"`
	Evidence    []string          `json:"evidence"`
	Compared    []Compared        `json:"predicted_and_obtained"`
	Before      stage.Measured    `json:"before"`
	After       stage.Measured    `json:"after"`
	Bad         []Planted         `json:"bad_proposals"`
	Settings    map[string]string `json:"settings"`

	Requests     int     `json:"requests"`
	Lost         int     `json:"requests_lost"`
	Resent       int     `json:"requests_resent_by_gateway"`
	StartSeconds float64 `json:"engine_start_seconds"`
	LoopSeconds  float64 `json:"loop_seconds"`
	Seconds      float64 `json:"seconds"`
}

// Compared is one figure of the engines' own telemetry: before, predicted with its 90 % interval, and
// obtained in the workflow's verification.
type Compared struct {
	Name      string  `json:"name"`
	Unit      string  `json:"unit"`
	Before    float64 `json:"before"`
	Predicted float64 `json:"predicted"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	Obtained  float64 `json:"obtained"`
}

// Planted is a bad proposal and what became of it.
type Planted struct {
	Settings map[string]string `json:"settings"`
	State    string            `json:"state"`
	Reason   string            `json:"reason"`
	Seconds  float64           `json:"seconds"` // from the proposal to the operator's own again, serving
	// Out of rotation, and serving on the old settings again; both from the first sign of harm.
	MitigateSeconds float64 `json:"time_to_mitigate_seconds"`
	RestoreSeconds  float64 `json:"time_to_restore_seconds"`
}

// compared are the figures shown, by their names in predictions.
var compared = []string{"throughput_tokens", "ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95", "e2e_p50", "e2e_p95"}

func (r *Report) adopt(i stage.Improvement) {
	rec := i.Recommendation
	r.Finding, r.Class, r.Proposal, r.CommandLine = rec.Finding.Summary, rec.Finding.Class, rec.Title, rec.CommandLine
	r.Evidence, r.Settings = rec.Evidence, rec.Settings
	for _, name := range compared {
		p, ok := rec.Predicted[name]
		if !ok {
			continue
		}
		r.Compared = append(r.Compared, Compared{
			Name: name, Unit: p.Unit, Before: i.Workflow.Before[name],
			Predicted: p.Value, Low: p.Low, High: p.High, Obtained: i.Workflow.After[name],
		})
	}
}

// Factor of completed output tokens per second at the same offered load.
func (r *Report) Factor() float64 {
	if r.Before.TokensPerSecond == 0 {
		return 0
	}
	return r.After.TokensPerSecond / r.Before.TokensPerSecond
}

// E2EChange is the relative change of the 95th percentile of end-to-end latency.
func (r *Report) E2EChange() float64 {
	if r.Before.E2EP95 == 0 {
		return 0
	}
	return r.After.E2EP95/r.Before.E2EP95 - 1
}

// Covered is how many of the compared figures lie within their predicted intervals.
func (r *Report) Covered() int {
	n := 0
	for _, c := range r.Compared {
		if c.Obtained >= c.Low && c.Obtained <= c.High {
			n++
		}
	}
	return n
}

func (r *Report) print(out io.Writer) {
	fmt.Fprintf(out, "\nREAL %s %s, %d replica(s), %s. Finding: %s\nProposal: %s\n\n", r.Engine, r.Version, r.Replicas, r.Scenario, r.Finding, r.Proposal)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "the engine's own telemetry\tbefore\tpredicted (90 %)\tobtained\t")
	for _, c := range r.Compared {
		fmt.Fprintf(w, "%s, %s\t%.3g\t%.3g (%.3g … %.3g)\t%.3g\t\n", c.Name, c.Unit, c.Before, c.Predicted, c.Low, c.High, c.Obtained)
	}
	fmt.Fprintln(w, "clients, from when a request was due\tbefore\t\tafter\t")
	for _, row := range []struct {
		name string
		of   func(stage.Measured) float64
	}{
		{"requests/s", func(m stage.Measured) float64 { return m.RequestsPerSecond }},
		{"output tokens/s", func(m stage.Measured) float64 { return m.TokensPerSecond }},
		{fmt.Sprintf("goodput (E2E ≤ %s), requests/s", stage.GoodE2E), func(m stage.Measured) float64 { return m.Good }},
		{"TTFT p95, s", func(m stage.Measured) float64 { return m.TTFTP95 }},
		{"E2E p50, s", func(m stage.Measured) float64 { return m.E2EP50 }},
		{"E2E p95, s", func(m stage.Measured) float64 { return m.E2EP95 }},
	} {
		fmt.Fprintf(w, "%s\t%.3g\t\t%.3g\t\n", row.name, row.of(r.Before), row.of(r.After))
	}
	_ = w.Flush() // the terminal is gone: nothing to tell anyone
	fmt.Fprintf(out, "\nthroughput ×%.2f, E2E p95 %+.0f %%; %d of %d predictions within their interval; %d requests, %d lost, %d sent again by the gateway; %.0f s in all\n\n",
		r.Factor(), 100*r.E2EChange(), r.Covered(), len(r.Compared), r.Requests, r.Lost, r.Resent, r.Seconds)
}

// Write the report as JSON.
func (r *Report) Write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// Verdict is the aim of bar M1r: three times the throughput or two thirds less latency, with nobody's
// request lost.
func (r *Report) Verdict() error {
	var faults []error
	if r.Factor() < 3 && r.E2EChange() > -0.66 {
		faults = append(faults, fmt.Errorf("throughput ×%.2f and E2E p95 %+.0f %%: the aim is ×3 or −66 %%", r.Factor(), 100*r.E2EChange()))
	}
	if r.Lost > 0 {
		faults = append(faults, fmt.Errorf("%d requests were lost: the aim is none", r.Lost))
	}
	return errors.Join(faults...)
}
