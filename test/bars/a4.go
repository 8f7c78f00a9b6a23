package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"gonum.org/v1/gonum/stat/distuv"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/telemetry"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// The fleet of A4: engines of eight kinds of traffic, one group each, long enough that most windows
// are compressed at rest when they are merged.
const (
	a4PerGroup = 25
	a4Seconds  = 150
	a4Target   = 1.0 // percent
	a4Exact    = fleet.TTFT
	// a4Buckets are the same values as an engine's own histogram would show them.
	a4Buckets = "ttft_of_buckets_seconds"
)

// a4Bounds are the bounds of vLLM's histogram of times to the first token.
var a4Bounds = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560, math.Inf(1)}

// a4Quantiles that are compared.
var a4Quantiles = [3]float64{.5, .95, .99}

// a4Traffic is how the latencies of one group come about, in seconds.
type a4Traffic struct {
	rate float64 // requests per second and engine
	draw func(r *rand.Rand, second int) float64
}

func lognormal(median, sigma float64) func(*rand.Rand, int) float64 {
	return func(r *rand.Rand, _ int) float64 { return median * math.Exp(sigma*r.NormFloat64()) }
}

var a4Groups = []a4Traffic{
	{20, lognormal(.2, .5)},
	{20, lognormal(.3, 1.6)}, // heavy tail
	{20, func(r *rand.Rand, _ int) float64 { return min(.05*math.Pow(1-r.Float64(), -1/1.1), 600) }}, // heavier: Pareto, cut by a timeout
	{10, func(r *rand.Rand, second int) float64 { // prefix cache hit or miss
		if r.Float64() < .9 {
			return lognormal(.04, .2)(r, second)
		}
		return lognormal(3, .3)(r, second)
	}},
	{50, func(r *rand.Rand, second int) float64 { // one in a hundred hangs: the p99 lies at the edge
		if r.Float64() < .01 {
			return 600
		}
		return lognormal(.1, .3)(r, second)
	}},
	{.05, lognormal(.5, 1)}, // low traffic: most windows are empty
	{5, func(*rand.Rand, int) float64 { return .25 }},
	{10, func(r *rand.Rand, second int) float64 {
		return lognormal(.1*math.Exp(float64(second)/40), .3)(r, second)
	}}, // overload builds up
}

// mergedBar holds merged quantiles against those of all values.
func mergedBar(_ context.Context, _ string, out io.Writer) error {
	f, err := newA4Fleet()
	if err != nil {
		return err
	}
	errs := newA4Errors()
	for _, s := range f.scopes() {
		if err := f.compare(s, errs); err != nil {
			return err
		}
	}
	return errs.print(out, f)
}

// a4Fleet is what the engines measured and what the control plane keeps of it.
type a4Fleet struct {
	ids    []string
	start  time.Time
	values [][][]float64 // by engine and second
	total  int
	store  *telemetry.Store
}

func newA4Fleet() (*a4Fleet, error) {
	start := time.Unix(1_800_000_000, 0)
	f := &a4Fleet{start: start, store: telemetry.New(telemetry.Config{Now: func() time.Time { return start.Add(a4Seconds * time.Second) }})}
	for g, traffic := range a4Groups {
		for i := range a4PerGroup {
			engine := len(f.ids)
			f.ids = append(f.ids, fmt.Sprintf("agent-%d-%d/0", g, i))
			f.values = append(f.values, traffic.second(uint64(engine)))
			for second, values := range f.values[engine] {
				if err := f.send(engine, second, values); err != nil {
					return nil, err
				}
				f.total += len(values)
			}
		}
	}
	if st := f.store.Stats(); st.Windows != len(f.ids)*a4Seconds {
		return nil, fmt.Errorf("the store kept %d of %d windows: %+v", st.Windows, len(f.ids)*a4Seconds, st)
	}
	return f, nil
}

// second by second, what one engine's requests took. Each engine is somewhat faster or slower than
// the others of its group.
func (t a4Traffic) second(seed uint64) [][]float64 {
	source := rand.NewPCG(4, seed)
	r := rand.New(source)
	arrivals := distuv.Poisson{Lambda: t.rate, Src: source}
	speed := math.Exp(.2 * r.NormFloat64())
	values := make([][]float64, a4Seconds)
	for s := range values {
		for range int(arrivals.Rand()) {
			values[s] = append(values[s], speed*t.draw(r, s))
		}
	}
	return values
}

// send takes one window all the way from an agent's sketch into the control plane's store.
func (f *a4Fleet) send(engine, second int, values []float64) error {
	w := fleet.NewWindow(f.ids[engine], f.start.Add(time.Duration(second)*time.Second))
	if len(values) > 0 {
		s, err := a4Sketch(values)
		if err != nil {
			return err
		}
		w.Sketches[a4Exact], w.Origin[a4Exact] = s, fleet.SourceProbe
		w.Sketches[a4Buckets], w.Origin[a4Buckets] = a4Histogram(values), fleet.SourceEngine
	}
	pb, err := w.Proto()
	if err != nil {
		return err
	}
	raw, err := proto.Marshal(pb)
	if err != nil {
		return err
	}
	var arrived agentv1.Window
	if err := proto.Unmarshal(raw, &arrived); err != nil {
		return err
	}
	back, err := fleet.FromProto(&arrived)
	if err != nil {
		return err
	}
	return f.store.Add(back)
}

func a4Sketch(values []float64) (*stats.Sketch, error) {
	s := stats.NewSketch()
	for _, v := range values {
		if err := s.Add(v); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func a4Histogram(values []float64) *stats.Sketch {
	buckets := make([]stats.Bucket, len(a4Bounds))
	var sum float64
	for i, upper := range a4Bounds {
		buckets[i].Upper = upper
	}
	for _, v := range values {
		i, _ := slices.BinarySearch(a4Bounds, v)
		buckets[i].Count++
		sum += v
	}
	return stats.FromHistogram(buckets, sum)
}

// a4Scope is a question: which engines, which seconds.
type a4Scope struct {
	of       string // agent, group or fleet
	engines  []int
	from, to int
}

// scopes of every agent, of every group and of the fleet, over spans from a second to all.
func (f *a4Fleet) scopes() (all []a4Scope) {
	add := func(of string, engines []int, spans ...int) {
		for _, span := range spans {
			for from := 0; from+span <= a4Seconds; from += span {
				all = append(all, a4Scope{of, engines, from, from + span})
			}
		}
	}
	everyone := make([]int, len(f.ids))
	for i := range everyone {
		everyone[i] = i
		add("agent", []int{i}, 10, a4Seconds)
	}
	for g := range a4Groups {
		add("group", everyone[g*a4PerGroup:(g+1)*a4PerGroup], 1, 10, 60, a4Seconds)
	}
	add("fleet", everyone, 1, 10, 60, a4Seconds)
	return all
}

// a4Errors are relative errors in percent.
type a4Errors struct {
	sketch, buckets map[string][3]float64 // worst by scope, for each of a4Quantiles
	figures         int                   // compared
	unlike          int                   // figures that one sketch of all values gives otherwise
	missing         int                   // values that the merged sketch has not, or has too many
}

func newA4Errors() *a4Errors {
	return &a4Errors{sketch: map[string][3]float64{}, buckets: map[string][3]float64{}}
}

func note(worst map[string][3]float64, of string, i int, err float64) {
	w := worst[of]
	w[i] = max(w[i], err)
	worst[of] = w
}

// compare asks the store and holds its answer against all values of the scope.
func (f *a4Fleet) compare(s a4Scope, errs *a4Errors) error {
	var ids []string
	var values []float64
	for _, e := range s.engines {
		ids = append(ids, f.ids[e])
		for _, v := range f.values[e][s.from:s.to] {
			values = append(values, v...)
		}
	}
	at := func(second int) time.Time { return f.start.Add(time.Duration(second) * time.Second) }
	merged, err := f.store.Aggregate(ids, at(s.from), at(s.to))
	if err != nil {
		return err
	}
	if got := (s.to - s.from) * len(s.engines); merged.Windows != got {
		return fmt.Errorf("%d of %d windows of a %s were merged", merged.Windows, got, s.of)
	}
	errs.missing += int(math.Abs(float64(len(values)) - merged.Count(a4Exact)))
	if len(values) == 0 {
		return nil
	}
	one, err := a4Sketch(values)
	if err != nil {
		return err
	}
	slices.Sort(values)
	for i, q := range a4Quantiles {
		exact, got := orderStatistic(values, q), merged.Quantile(a4Exact, q)
		errs.figures++
		errs.unlike += count(got != one.Quantile(q))
		note(errs.sketch, s.of, i, relativeError(got, exact))
		note(errs.buckets, s.of, i, relativeError(merged.Quantile(a4Buckets, q), exact))
	}
	return nil
}

// orderStatistic is the exact quantile of sorted values: the value of rank ⌊q(n−1)⌋, counted from 0,
// which is the one that a DDSketch estimates.
func orderStatistic(sorted []float64, q float64) float64 {
	return sorted[int(q*float64(len(sorted)-1))]
}

// relativeError in percent.
func relativeError(got, exact float64) float64 { return 100 * math.Abs(got-exact) / exact }

func (e *a4Errors) print(out io.Writer, f *a4Fleet) error {
	var worst [3]float64
	for _, of := range e.sketch {
		for i, v := range of {
			worst[i] = max(worst[i], v)
		}
	}
	_, err := fmt.Fprintf(out, "BAR A4 value=%.4f unit=percent target<=%.0f of=worst_relative_error_of_p99 p50=%.4f p95=%.4f engines=%d seconds=%d values=%d figures=%d\n",
		worst[2], a4Target, worst[0], worst[1], len(f.ids), a4Seconds, f.total, e.figures)
	for _, of := range []string{"agent", "group", "fleet"} {
		w := e.sketch[of]
		_, failed := fmt.Fprintf(out, "BAR A4.%s value=%.4f unit=percent target<=%.0f of=worst_relative_error_of_p99 p50=%.4f p95=%.4f\n", of, w[2], a4Target, w[0], w[1])
		err = errors.Join(err, failed)
	}
	_, failed := fmt.Fprintf(out, "BAR A4.lossless value=%d unit=figures target=0 of=unlike_one_sketch_of_all_values figures=%d values_missing=%d\n", e.unlike, e.figures, e.missing)
	err = errors.Join(err, failed)
	b := e.buckets["fleet"]
	_, failed = fmt.Fprintf(out, "BAR A4.buckets value=%.1f unit=percent of=worst_relative_error_of_fleet_p99 p50=%.1f p95=%.1f source=histogram_with_bounds_of_vllm\n", b[2], b[0], b[1])
	return errors.Join(err, failed)
}
