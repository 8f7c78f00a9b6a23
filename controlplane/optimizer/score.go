package optimizer

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// Size of a simulated replay. Arrivals are as bursty as the Azure conversation trace and lengths
// have its shape, both scaled to the group's measured means.
const (
	maxReplicas    = 8
	screenRequests = 150
	screenDraws    = 2
	fullRequests   = 400
	finalists      = 6
	stress         = 2.5 // times the load at which equals are told apart: the one that stands growth better wins
	trafficShape   = "azure-conv"
)

// unknownKVTokens stands in where neither the engine nor a table tells the size of the cache.
const unknownKVTokens = 1 << 16

// guessedHits are shares of prompt tokens that a cache would find, one for each draw, in the order in
// which the first few span the whole.
var guessedHits = []float64{0.3, 0.7, 0.1, 0.9, 0, 0.5, 0.2, 0.8}

// simulator predicts configurations of one group on its own traffic.
type simulator struct {
	scene    *Scene
	traffic  traffic
	cal      *calibration
	replicas int
	clients  int                  // in a closed loop; 0: arrivals do not depend on answers
	traces   [][]workload.Request // one per draw
	stressed [][]workload.Request // the same, arriving faster
}

func newSimulator(s *Scene, t traffic, cal *calibration) (*simulator, error) {
	sim := &simulator{scene: s, traffic: t, cal: cal, replicas: min(maxReplicas, max(1, s.Replicas))}
	if sim.clients = s.heldBack(); sim.clients > 0 {
		sim.replicas = 1 // they are alike, and each has its own senders
	}
	spec, err := workload.Named(trafficShape)
	if err != nil {
		return nil, err
	}
	spec.Arrivals.Rate = t.rate * float64(sim.replicas)
	spec.Prompt = scaleLengths(spec.Prompt, t.prompt*(1-t.hit))
	spec.Output = scaleLengths(spec.Output, t.output)
	spec.Duration, spec.Count = 0, fullRequests
	for i := range draws {
		trace, err := workload.Generate(spec, uint64(i)+1)
		if err != nil {
			return nil, fmt.Errorf("traffic of %s: %w", s.Group, err)
		}
		sim.traces = append(sim.traces, trace)
		sim.stressed = append(sim.stressed, workload.Scale(trace, stress))
	}
	return sim, nil
}

// scaleLengths gives a length distribution another mean and keeps its shape.
func scaleLengths(q workload.Quantiles, mean float64) workload.Quantiles {
	factor := mean / q.Mean()
	out := slices.Clone(q)
	for i := range out {
		out[i].Tokens = math.Max(1, out[i].Tokens*factor)
	}
	return out
}

// setup of a configuration for the closed form.
func (sim *simulator) setup(neutral map[string]string) func(perfmodel.GPU, perfmodel.Model) perfmodel.Setup {
	return setupOf(sim.scene, neutral)
}

// setupOf merges a change of neutral knobs into the settings in effect.
func setupOf(s *Scene, neutral map[string]string) func(perfmodel.GPU, perfmodel.Model) perfmodel.Setup {
	config := s.Config()
	for k, v := range neutral {
		config[k] = v
	}
	number := func(name string, fallback int) int {
		if v, ok := config.Number(name); ok && v > 0 {
			return int(v)
		}
		return fallback
	}
	weights, _ := perfmodel.ParsePrecision(config["weight_dtype"]) // an unknown format counts as the checkpoint's own
	kv, _ := perfmodel.ParsePrecision(config["kv_dtype"])
	fraction, _ := config.Number("kv_memory_fraction")
	layout := perfmodel.Layout{TP: number("tensor_parallel", 1), PP: number("pipeline_parallel", 1)}
	return func(g perfmodel.GPU, m perfmodel.Model) perfmodel.Setup {
		return perfmodel.Setup{
			GPU: g, Model: m, Layout: layout, Weights: weights, KV: kv, MemoryFraction: fraction,
			MaxNumSeqs: number("max_num_seqs", 256), MaxBatchedTokens: number("max_num_batched_tokens", 2048),
		}
	}
}

// outcome of one configuration over the draws.
type outcome struct {
	runs []des.Summary
	kv   int // tokens of KV cache per replica
	err  error
}

// run replays the traffic with the first n draws, at most requests requests each.
func (sim *simulator) run(neutral map[string]string, n, requests int) outcome {
	return sim.runOn(sim.traces, sim.clients, neutral, n, requests)
}

// pressed is run at the stressed load.
func (sim *simulator) pressed(neutral map[string]string, n, requests int) outcome {
	return sim.runOn(sim.stressed, int(stress*float64(sim.clients)), neutral, n, requests)
}

func (sim *simulator) runOn(traces [][]workload.Request, clients int, neutral map[string]string, n, requests int) outcome {
	var o outcome
	for i := range n {
		trace := sim.withCache(traces[i][:min(requests, len(traces[i]))], neutral, i)
		summary, kv, err := sim.replay(neutral, i, trace, clients)
		if err != nil {
			return outcome{err: err}
		}
		o.runs, o.kv = append(o.runs, summary), kv
	}
	return o
}

// cost of steps of a configuration by the n-th draw, and the tokens that its KV cache holds.
func (sim *simulator) cost(neutral map[string]string, setup perfmodel.Setup, n int) (des.Cost, int, error) {
	if laws := sim.cal.laws; len(laws) > 0 {
		return laws[n%len(laws)], cmp.Or(sim.scene.kvTokens(), unknownKVTokens), nil
	}
	p, err := perfmodel.New(setup, sim.cal.draws[n])
	if err != nil {
		return nil, 0, err
	}
	kv, err := sim.kvTokens(p, neutral)
	return p, kv, err
}

// withCache shortens prompts by the prefixes that a candidate's cache is guessed to find: how many
// repeat cannot be seen while there is no cache, so each draw guesses another share.
func (sim *simulator) withCache(trace []workload.Request, neutral map[string]string, n int) []workload.Request {
	if !sim.scene.turnsCacheOn(neutral) {
		return trace
	}
	out := slices.Clone(trace)
	for i := range out {
		out[i].PromptTokens = max(1, int(float64(out[i].PromptTokens)*(1-guessedHits[n%len(guessedHits)])))
	}
	return out
}

func (sim *simulator) replay(neutral map[string]string, n int, trace []workload.Request, clients int) (des.Summary, int, error) {
	setup := sim.setup(neutral)(sim.cal.gpu, sim.cal.model)
	cost, kv, err := sim.cost(neutral, setup, n)
	if err != nil {
		return des.Summary{}, 0, err
	}
	config := sim.scene.Config()
	longest := 0
	for _, r := range trace {
		longest = max(longest, r.PromptTokens+r.OutputTokens)
	}
	if kv < longest {
		return des.Summary{}, kv, fmt.Errorf("the KV cache would hold %d tokens, less than one long request", kv)
	}
	engines := make([]*des.Engine, sim.replicas)
	for i := range engines {
		engines[i] = des.New(des.Config{
			Dialect: dialects[sim.scene.Engine], MaxNumSeqs: setup.MaxNumSeqs, MaxBatchedTokens: setup.MaxBatchedTokens,
			ChunkedPrefill: config["chunked_prefill"] != "false", KVTokens: kv, AsyncScheduling: true,
		}, cost, uint64(n)+uint64(i))
	}
	objective := sim.scene.Objectives
	r, err := des.Run(engines, trace, des.Options{Clients: clients, Objective: des.Objective{
		TTFT: duration(objective.GetTtftSeconds()), TPOT: duration(objective.GetTpotSeconds()), E2E: duration(objective.GetE2ESeconds()),
	}})
	if err != nil {
		return des.Summary{}, kv, err
	}
	return r.Summary, kv, nil
}

var dialects = map[string]des.Dialect{"vllm": des.VLLM, "sglang": des.SGLang, "tgi": des.TGI}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// kvTokens is the engine's own figure where the candidate leaves memory alone, else that figure
// scaled by what the formula says of the change.
func (sim *simulator) kvTokens(p *perfmodel.Predictor, neutral map[string]string) (int, error) {
	formula, err := p.KVCapacityTokens()
	if err != nil {
		return 0, err
	}
	observed := sim.scene.kvTokens()
	if observed == 0 {
		return formula, nil
	}
	now, err := perfmodel.New(setupOf(sim.scene, nil)(sim.cal.gpu, sim.cal.model), sim.cal.draws[0])
	if err != nil {
		return 0, err
	}
	base, err := now.KVCapacityTokens()
	if err != nil || base == 0 {
		return formula, nil //nolint:nilerr // the running engine fits, whatever the formula says
	}
	return int(float64(observed) * float64(formula) / float64(base)), nil
}

// value of a run, larger is better: the share of requests that meet the objectives where there are
// any, and the inverse of the 95th percentile of end-to-end latency.
type value struct {
	share float64 // 1 without objectives
	speed float64 // 1 / seconds
}

// Where requests are held back, latency is the senders' doing: what counts is how many get done.
func (sim *simulator) valueOf(s des.Summary) value {
	if sim.clients > 0 {
		return value{share: 1, speed: s.RequestRate}
	}
	o := sim.scene.Objectives
	v := value{share: 1, speed: 1 / math.Max(1e-6, s.E2E.P95.Seconds())}
	if o.GetTtftSeconds() > 0 || o.GetTpotSeconds() > 0 || o.GetE2ESeconds() > 0 {
		v.share = s.GoodShare
	}
	if s.Finished == 0 {
		v = value{}
	}
	return v
}

// Gain of one value over another: in goodput where it differs noticeably, else in latency. The
// denominator has a floor, so that a group that meets nothing does not gain infinitely.
func (v value) gainOver(base value) float64 {
	const floor, same = 0.05, 0.02
	if math.Abs(v.share-base.share) > same {
		return (v.share - base.share) / math.Max(floor, base.share)
	}
	if base.speed == 0 {
		return 0
	}
	return v.speed/base.speed - 1
}

// gains of a candidate over the incumbent, one per draw, smallest first.
func (sim *simulator) gains(candidate, incumbent outcome) []float64 {
	var out []float64
	for i := range min(len(candidate.runs), len(incumbent.runs)) {
		out = append(out, sim.valueOf(candidate.runs[i]).gainOver(sim.valueOf(incumbent.runs[i])))
	}
	slices.Sort(out)
	return out
}

func mean(v []float64) float64 {
	var sum float64
	for _, x := range v {
		sum += x
	}
	return sum / math.Max(1, float64(len(v)))
}

// scored is a candidate with its prediction.
type scored struct {
	candidate
	outcome outcome
	gain    float64 // mean over the draws
	low     float64 // 10th percentile
	growth  float64 // mean gain at the stressed load
}

// best predicts all candidates, cheaply first and the finalists in full, and returns them best
// first. Those that cannot work are returned with the reason.
func (sim *simulator) best(cands []candidate) (ranked []scored, no []rejection) {
	screenBase := sim.run(nil, screenDraws, screenRequests)
	screenPressed := sim.pressed(nil, screenDraws, screenRequests)
	for _, c := range cands {
		o := sim.run(c.neutral, screenDraws, screenRequests)
		if o.err != nil {
			no = append(no, rejection{c.title(sim.scene), o.err.Error()})
			continue
		}
		ranked = append(ranked, scored{
			candidate: c, outcome: o, gain: mean(sim.gains(o, screenBase)),
			growth: mean(sim.gains(sim.pressed(c.neutral, screenDraws, screenRequests), screenPressed)),
		})
	}
	sortByGain(ranked)
	if len(ranked) > finalists {
		for _, r := range ranked[finalists:] {
			no = append(no, rejection{r.title(sim.scene), fmt.Sprintf("predicted gain %+.0f %% in a short replay, behind the finalists", 100*r.gain)})
		}
		ranked = ranked[:finalists]
	}
	base := sim.run(nil, draws, fullRequests)
	for i, r := range ranked {
		ranked[i].outcome = sim.run(r.neutral, draws, fullRequests)
		g := sim.gains(ranked[i].outcome, base)
		ranked[i].gain = mean(g)
		if len(g) > 0 {
			ranked[i].low = g[len(g)/10]
		}
	}
	sortByGain(ranked)
	return ranked, no
}

// sortByGain puts the largest gain first. Gains within two points count as equal; then the one that
// stands growth better wins, and among equals in that, the one that changes fewer knobs.
func sortByGain(s []scored) {
	const same = 0.02
	slices.SortStableFunc(s, func(a, b scored) int {
		if math.Abs(a.gain-b.gain) > same {
			return cmp.Compare(b.gain, a.gain)
		}
		if math.Abs(a.growth-b.growth) > same {
			return cmp.Compare(b.growth, a.growth)
		}
		return cmp.Compare(len(a.neutral), len(b.neutral))
	})
}

func parse(v string) (float64, error) {
	f, err := strconv.ParseFloat(v, 64)
	if err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return 0, errors.New("not finite")
	}
	return f, err
}
