package demo

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// load is one run of the load generator.
type load struct {
	name, workload string
	scale          float64
	args           []string
	file           string
	process        *process
}

// record is one line of the load generator's output; times not reached are zero.
type record struct {
	Intended   time.Time `json:"intended"`
	FirstToken time.Time `json:"first_token"`
	LastToken  time.Time `json:"last_token"`
	Done       time.Time `json:"done"`
	Tokens     int       `json:"tokens"`
	Failed     string    `json:"failed"`
}

// Quantiles of a latency, in seconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// Measured is what the clients saw over a span: requests that ended in it, latencies from when they
// were due.
type Measured struct {
	Requests        int       `json:"requests"`
	Failed          int       `json:"failed"`
	Seconds         float64   `json:"seconds"`
	TTFT            Quantiles `json:"ttft_seconds"`
	TPOT            Quantiles `json:"tpot_seconds"`
	E2E             Quantiles `json:"e2e_seconds"`
	TokensPerSecond float64   `json:"tokens_per_second"`
	Goodput         float64   `json:"goodput_requests_per_second"`
	GoodShare       float64   `json:"good_share"`
}

// records of a load so far.
func (f *fleet) records(name string) ([]record, error) {
	file, err := os.Open(f.loads[name].file)
	if err != nil {
		return nil, fmt.Errorf("read the load generator's records: %w", err)
	}
	defer file.Close()
	var out []record
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue // the last line may be half written
		}
		out = append(out, r)
	}
	return out, lines.Err()
}

// measure summarises what ended within the span.
func (f *fleet) measure(name string, from, to time.Time) (Measured, error) {
	all, err := f.records(name)
	if err != nil {
		return Measured{}, err
	}
	m := summarize(all, from, to)
	if m.Requests == 0 {
		return m, fmt.Errorf("no request of %s ended in the span: see its log", name)
	}
	return m, nil
}

func (f *fleet) measureAll(name string) (Measured, error) {
	return f.measure(name, time.Time{}, time.Now())
}

// lost counts the failed requests of all loads on the fleet.
func (f *fleet) lost() (int, error) {
	n := 0
	for _, name := range []string{"chat", "code", "summarize"} {
		all, err := f.records(name)
		if err != nil {
			return 0, err
		}
		for _, r := range all {
			if r.Failed != "" {
				n++
			}
		}
	}
	return n, nil
}

// summarize the requests that ended within [from, to); a zero from means from the first on.
func summarize(all []record, from, to time.Time) Measured {
	var m Measured
	var ttft, tpot, e2e []float64
	tokens, good := 0, 0
	for _, r := range all {
		if r.Done.Before(from) || !r.Done.Before(to) {
			continue
		}
		if from.IsZero() {
			from = r.Done
		}
		m.Requests++
		if r.Failed != "" {
			m.Failed++
			continue
		}
		tokens += r.Tokens
		t, e, p := r.FirstToken.Sub(r.Intended).Seconds(), r.LastToken.Sub(r.Intended).Seconds(), 0.0
		if r.Tokens > 1 {
			p = r.LastToken.Sub(r.FirstToken).Seconds() / float64(r.Tokens-1)
			tpot = append(tpot, p)
		}
		ttft, e2e = append(ttft, t), append(e2e, e)
		if t <= objectiveTTFT && p <= objectiveTPOT {
			good++
		}
	}
	m.TTFT, m.TPOT, m.E2E = quantilesOf(ttft), quantilesOf(tpot), quantilesOf(e2e)
	m.Seconds = to.Sub(from).Seconds()
	if m.Requests > 0 && m.Seconds > 0 {
		m.TokensPerSecond, m.Goodput = float64(tokens)/m.Seconds, float64(good)/m.Seconds
		m.GoodShare = float64(good) / float64(m.Requests)
	}
	return m
}

func quantilesOf(v []float64) Quantiles {
	if len(v) == 0 {
		return Quantiles{}
	}
	slices.Sort(v)
	at := func(q float64) float64 { return v[min(len(v)-1, int(q*float64(len(v))))] }
	return Quantiles{P50: at(0.5), P95: at(0.95), P99: at(0.99)}
}

// Predicted value with its 90 % interval.
type Predicted struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// BadProposal and what became of it.
type BadProposal struct {
	Settings        map[string]string `json:"settings"`
	State           string            `json:"state"`
	Reason          string            `json:"reason"`
	MitigateSeconds float64           `json:"time_to_mitigate_seconds"`
	RestoreSeconds  float64           `json:"time_to_restore_seconds"`
}

// Report of a run, all of simulated engines.
type Report struct {
	Simulated        bool                 `json:"simulated"`
	Finding          string               `json:"finding"`
	Proposal         string               `json:"proposal"`
	Waves            int                  `json:"waves"`
	Before           Measured             `json:"before"`
	After            Measured             `json:"after"`
	Defaults         Measured             `json:"engine_defaults"`
	Predicted        map[string]Predicted `json:"predicted"`
	GoodputFactor    float64              `json:"goodput_factor"`
	E2EP95Change     float64              `json:"e2e_p95_change"`
	OverDefaults     float64              `json:"good_share_over_engine_defaults"`
	Bad              BadProposal          `json:"bad_proposal"`
	LeaderGapSeconds float64              `json:"leader_gap_seconds"`
	Lost             int                  `json:"requests_lost"`
	Seconds          float64              `json:"seconds"`
}

// complete fills in what follows from the measurements.
func (r *Report) complete() {
	r.Simulated = true
	if r.Before.Goodput > 0 {
		r.GoodputFactor = r.After.Goodput / r.Before.Goodput
	}
	if r.Before.E2E.P95 > 0 {
		r.E2EP95Change = r.After.E2E.P95/r.Before.E2E.P95 - 1
	}
	if r.Defaults.GoodShare > 0 {
		r.OverDefaults = r.After.GoodShare / r.Defaults.GoodShare
	}
}

func (r *Report) print(out io.Writer) {
	r.complete()
	fmt.Fprintf(out, "\nSIMULATED engines, real processes and streams. Finding: %s\nProposal: %s\n\n", r.Finding, r.Proposal)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "group chat\tbefore\tafter\tpredicted (90 %)\tengine defaults\t")
	row := func(name, unit string, scale float64, read func(Measured) float64, predicted string) {
		p := "–"
		if x, ok := r.Predicted[predicted]; ok {
			p = fmt.Sprintf("%.3g (%.3g … %.3g)", scale*x.Value, scale*x.Low, scale*x.High)
		}
		fmt.Fprintf(w, "%s, %s\t%.3g\t%.3g\t%s\t%.3g\t\n", name, unit, scale*read(r.Before), scale*read(r.After), p, scale*read(r.Defaults))
	}
	for _, q := range []struct {
		name, key string
		scale     float64
		unit      string
		of        func(Measured) Quantiles
	}{
		{"TTFT", "ttft", 1, "s", func(m Measured) Quantiles { return m.TTFT }},
		{"TPOT", "tpot", 1000, "ms", func(m Measured) Quantiles { return m.TPOT }},
		{"E2E", "e2e", 1, "s", func(m Measured) Quantiles { return m.E2E }},
	} {
		row(q.name+" p50", q.unit, q.scale, func(m Measured) float64 { return q.of(m).P50 }, q.key+"_p50")
		row(q.name+" p95", q.unit, q.scale, func(m Measured) float64 { return q.of(m).P95 }, q.key+"_p95")
		row(q.name+" p99", q.unit, q.scale, func(m Measured) float64 { return q.of(m).P99 }, q.key+"_p99")
	}
	row("tokens", "1/s", 1, func(m Measured) float64 { return m.TokensPerSecond }, "throughput_tokens")
	row("goodput", "requests/s", 1, func(m Measured) float64 { return m.Goodput }, "")
	row("within objectives", "%", 100, func(m Measured) float64 { return m.GoodShare }, "goodput_share")
	_ = w.Flush() // the terminal is gone: nothing to tell anyone
	fmt.Fprintf(out, "\ngoodput ×%.2f, E2E p95 %+.0f %%; against the engine's own defaults (one engine, an eighth of the traffic) ×%.2f within objectives\n",
		r.GoodputFactor, 100*r.E2EP95Change, r.OverDefaults)
	fmt.Fprintf(out, "bad proposal: %s; time to mitigate %.1f s, time to restore %.1f s (%s)\n", r.Bad.State, r.Bad.MitigateSeconds, r.Bad.RestoreSeconds, r.Bad.Reason)
	fmt.Fprintf(out, "leader killed in wave %d: a new one after %.1f s; waves %d; requests lost: %d\n\n", killInWave+1, r.LeaderGapSeconds, r.Waves, r.Lost)
}

func (r *Report) write(path string) error {
	if path == "" {
		return nil
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// verdict is the demo's own bar: three times the goodput or a third of the latency, nobody lost.
func (r *Report) verdict() error {
	var faults []error
	if r.GoodputFactor < 3 && r.E2EP95Change > -0.66 {
		faults = append(faults, fmt.Errorf("goodput ×%.2f and E2E p95 %+.0f %%: the aim is ×3 or −66 %%", r.GoodputFactor, 100*r.E2EP95Change))
	}
	if r.Lost > 0 {
		faults = append(faults, fmt.Errorf("%d requests were lost: the aim is none", r.Lost))
	}
	return errors.Join(faults...)
}
