package optimizer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/workload"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// ErrQuestion is returned, wrapped, for a question that cannot be answered as it is put.
var ErrQuestion = errors.New("question cannot be answered")

// Question asks what a configuration would do, on live traffic of a group or on described traffic.
type Question struct {
	// Group whose engines, traffic and calibration to take; empty: Engine, Model, Hardware and the
	// traffic below describe all.
	Group                   string
	Engine, Model, Hardware string
	Replicas                int // 0: as many as the group has, else one
	// Traffic; zero fields are the group's.
	RequestsPerSecond          float64 // of all replicas together
	PromptTokens, OutputTokens float64 // means per request
	PrefixHitRate              float64 // 0–1
	// Settings to try on top of what runs, by the engine's knob names or by neutral ones.
	Settings map[string]string
	// Objectives on 95th percentiles; nil: the group's.
	Objectives *commandv1.Objectives
}

// Simulation answers a Question. Intervals hold 90 % of the predictions.
type Simulation struct {
	Settings map[string]string // by neutral name, as they would be in effect
	Replicas int
	GPUs     int // per replica
	Notes    []string
	Curve    []CurvePoint
	Capacity Capacity
	Pareto   []ParetoPoint
}

// CurvePoint is a load and what it would see.
type CurvePoint struct {
	RequestsPerSecond float64 // of all replicas together
	Predicted         map[string]*commandv1.Predicted
	Meets             bool // the objectives, on the mean of the draws
}

// Capacity says how much fits.
type Capacity struct {
	// RequestsPerSecond that all replicas together serve within the objectives; without objectives,
	// before the queue grows without end.
	RequestsPerSecond *commandv1.Predicted
	// Users is how many requests may be open at once, each user sending the next when the last is
	// answered, over all replicas.
	Users *commandv1.Predicted
	// ReplicasNeeded for the asked rate; 0 when none was asked for, or none suffice.
	ReplicasNeeded int
	Why            string // what limits, or why nothing fits
}

// ParetoPoint is a number of users per replica and what each and the GPUs get.
type ParetoPoint struct {
	Users                  int
	TokensPerSecondPerUser float64
	TokensPerSecondPerGPU  float64
	Best                   bool // no other point is better in both
}

const (
	whatIfDraws    = 4
	whatIfRequests = 300
	bisections     = 6
)

// loads of the curve, as shares of the capacity.
var loads = []float64{0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25}

// Simulate answers a question in virtual time. It changes nothing.
func (v *Service) Simulate(ctx context.Context, q Question) (*Simulation, error) {
	s, t, err := v.subject(q)
	if err != nil {
		return nil, err
	}
	neutral, err := s.neutralSettings(q.Settings)
	if err != nil {
		return nil, err
	}
	replicas := cmp.Or(q.Replicas, s.Replicas, 1)
	s.Replicas = 1 // replicas are alike: one is simulated
	cal, err := v.calibrate(s, setupOf(s, nil), s.operatingPoint(t), t)
	if err != nil {
		return nil, err
	}
	sim, err := newSimulator(s, t, cal)
	if err != nil {
		return nil, err
	}
	sim.clients = 0 // the question is about loads
	w := &whatIf{sim: sim, neutral: neutral, replicas: replicas}
	if first := sim.run(neutral, 1, 50); first.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrQuestion, first.err)
	}
	out := &Simulation{Settings: s.Config(), Replicas: replicas, Notes: slices.Clone(cal.notes)}
	maps.Copy(out.Settings, neutral)
	setup := sim.setup(neutral)(cal.gpu, cal.model)
	out.GPUs = max(1, setup.Layout.TP) * max(1, setup.Layout.PP)
	out.Notes = append(out.Notes, fmt.Sprintf("traffic: %.0f prompt and %.0f output tokens a request on average, prefix hits %.0f %%; burstiness and length shape as in a public conversation trace; replicas are taken as alike and evenly loaded",
		t.prompt, t.output, 100*t.hit))
	w.capacity(ctx, out, q.RequestsPerSecond, setup.MaxNumSeqs)
	w.curve(ctx, out, q.RequestsPerSecond)
	w.pareto(ctx, out, setup.MaxNumSeqs)
	return out, ctx.Err()
}

// subject of a question: a live group's scene and traffic, or one made from the description.
func (v *Service) subject(q Question) (*Scene, traffic, error) {
	var t traffic
	s := &Scene{
		Engine: cmp.Or(q.Engine, "vllm"), Model: q.Model, Hardware: q.Hardware, Description: &enginev1.Description{}, Totals: fleet.NewAggregate(), Now: v.now(),
	}
	if q.Group != "" {
		live, err := v.scene(q.Group, v.cfg.Span)
		if err != nil {
			return nil, t, err
		}
		if s = live; s.Replicas > 0 {
			if t, err = s.traffic(); err != nil && (q.PromptTokens <= 0 || q.OutputTokens <= 0) {
				return nil, t, fmt.Errorf("%w: %w; give prompt_tokens and output_tokens to ask about other traffic", ErrQuestion, err)
			}
		}
	} else if q.Model == "" || q.Hardware == "" {
		return nil, t, fmt.Errorf("%w: name a group, or a model and hardware", ErrQuestion)
	}
	if q.Objectives != nil {
		s.Objectives = q.Objectives
	}
	if _, known := dialects[s.Engine]; !known {
		return nil, t, fmt.Errorf("%w: engine %q is not known: use vllm, sglang or tgi", ErrQuestion, s.Engine)
	}
	public, err := publicTraffic()
	if err != nil {
		return nil, t, err
	}
	t.prompt = cmp.Or(q.PromptTokens, t.prompt, public.prompt)
	t.output = cmp.Or(q.OutputTokens, t.output, public.output)
	t.hit = cmp.Or(q.PrefixHitRate, t.hit)
	t.rate = cmp.Or(t.rate, 1) // the unit of loads
	return s, t, nil
}

// neutralSettings translates settings to neutral names.
func (s *Scene) neutralSettings(settings map[string]string) (map[string]string, error) {
	known := map[string]string{}
	for _, axis := range axes {
		known[axis.neutral] = axis.neutral
	}
	for _, n := range []string{"pipeline_parallel", "chunked_prefill"} {
		known[n] = n
	}
	for _, k := range s.Description.GetKnobs() {
		if n := k.GetNeutral(); n != "" {
			known[k.GetName()], known[n] = n, n
		}
	}
	out := map[string]string{}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		n, ok := known[name]
		if !ok {
			unknown = append(unknown, name)
			continue
		}
		out[n] = settings[name]
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("%w: the model of an engine has no setting %s; it knows %s", ErrQuestion, strings.Join(unknown, ", "), strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	return out, nil
}

// whatIf asks the simulator of one configuration.
type whatIf struct {
	sim      *simulator
	neutral  map[string]string
	replicas int
}

// at a rate per replica, by one draw.
func (w *whatIf) at(rate float64, draw int) (des.Summary, bool) {
	trace := w.sim.traces[draw][:min(whatIfRequests, len(w.sim.traces[draw]))]
	sum, _, err := w.sim.replay(w.neutral, draw, workload.Scale(trace, rate/w.sim.traffic.rate), 0)
	return sum, err == nil
}

// with users per replica, by one draw.
func (w *whatIf) with(users, draw int) (des.Summary, bool) {
	trace := w.sim.traces[draw][:min(max(whatIfRequests, 3*users), len(w.sim.traces[draw]))]
	sum, _, err := w.sim.replay(w.neutral, draw, trace, users)
	return sum, err == nil
}

func (w *whatIf) objectives() bool {
	o := w.sim.scene.Objectives
	return o.GetTtftSeconds() > 0 || o.GetTpotSeconds() > 0 || o.GetE2ESeconds() > 0
}

// breaks names the objective that a run misses most, "" when it meets all.
func (w *whatIf) breaks(s des.Summary) string {
	o := w.sim.scene.Objectives
	worst, most := "", 1.0
	for _, c := range []struct {
		name       string
		got, bound float64
	}{
		{"TTFT p95", s.TTFT.P95.Seconds(), o.GetTtftSeconds()}, {"TPOT p95", s.TPOT.P95.Seconds(), o.GetTpotSeconds()}, {"E2E p95", s.E2E.P95.Seconds(), o.GetE2ESeconds()},
	} {
		if c.bound > 0 && c.got/c.bound > most {
			worst, most = fmt.Sprintf("%s (%.3g s, %.3g s allowed)", c.name, c.got, c.bound), c.got/c.bound
		}
	}
	return worst
}

// capacity in rate and in users.
func (w *whatIf) capacity(ctx context.Context, out *Simulation, asked float64, seqs int) {
	y := yardstick{scene: w.sim.scene, traffic: w.sim.traffic, cal: w.sim.cal}
	ceiling, ok := y.maxRate(w.neutral)
	c := &out.Capacity
	if !ok || ceiling <= 0 {
		c.Why = "what a replica sustains cannot be predicted"
		return
	}
	var rates, users []float64
	limit := ""
	for d := range whatIfDraws {
		if ctx.Err() != nil {
			return
		}
		rate, why := w.highest(ceiling, d)
		rates, limit = append(rates, rate), cmp.Or(why, limit)
		users = append(users, float64(w.most(seqs, d)))
	}
	c.RequestsPerSecond = w.interval(rates, "req/s", errorTPOT)
	c.Users = w.interval(users, "requests", errorTPOT)
	each := mean(rates)
	switch {
	case each <= 0:
		c.Why = "nothing fits: with a single request open, " + cmp.Or(limit, "an objective") + " is missed; relax it, or change the configuration, the model or the hardware"
		return
	case limit != "":
		c.Why = "beyond it, " + limit + " is missed"
	default:
		c.Why = "beyond it the queue grows without end; no objective is set"
	}
	if asked > 0 {
		c.ReplicasNeeded = int(math.Ceil(asked / each))
	}
}

// highest rate of a replica within the objectives, by one draw, and which one is missed beyond.
func (w *whatIf) highest(ceiling float64, draw int) (rate float64, limit string) {
	if !w.objectives() {
		return ceiling, ""
	}
	low, high := 0.0, 1.5*ceiling
	if s, ok := w.at(high, draw); ok && w.breaks(s) == "" {
		return min(high, ceiling), "" // a trace too short for the queue to show: the law's limit stands
	}
	for range bisections {
		middle := (low + high) / 2
		s, ok := w.at(middle, draw)
		if why := w.breaks(s); ok && why == "" {
			low = middle
		} else {
			high, limit = middle, why
		}
	}
	if low == 0 {
		if s, ok := w.with(1, draw); ok && w.breaks(s) == "" {
			return high, limit
		}
	}
	return min(low, ceiling), limit
}

// most users of a replica within the objectives, without them as many as run at once.
func (w *whatIf) most(seqs, draw int) int {
	fits := func(n int) bool {
		s, ok := w.with(n, draw)
		return ok && w.breaks(s) == "" && (w.objectives() || s.Queue.P95 < s.E2E.P95/10)
	}
	if !fits(1) {
		return 0
	}
	low, high := 1, 2
	for high <= 2*seqs && high <= whatIfRequests && fits(high) {
		low, high = high, 2*high
	}
	for high-low > max(1, low/8) {
		if middle := (low + high) / 2; fits(middle) {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// interval of a figure over the draws, of all replicas together, widened by the model's error.
func (w *whatIf) interval(vs []float64, unit string, spread float64) *commandv1.Predicted {
	slices.Sort(vs)
	if !w.sim.cal.anchored {
		spread *= anchorlessMul
	}
	n, widen := float64(w.replicas), math.Exp(1.645*spread)
	return &commandv1.Predicted{Value: n * mean(vs), Low: n * vs[0] / widen, High: n * vs[len(vs)-1] * widen, Unit: unit}
}

// curve of latencies over loads around the capacity, and at the asked rate.
func (w *whatIf) curve(ctx context.Context, out *Simulation, asked float64) {
	whole := out.Capacity.RequestsPerSecond.GetValue()
	var rates []float64
	for _, share := range loads {
		if whole > 0 {
			rates = append(rates, share*whole)
		}
	}
	if asked > 0 {
		rates = append(rates, asked)
	}
	slices.Sort(rates)
	for _, rate := range slices.Compact(rates) {
		if ctx.Err() != nil {
			return
		}
		o := outcome{}
		meets := 0
		for d := range whatIfDraws {
			if s, ok := w.at(rate/float64(w.replicas), d); ok {
				o.runs = append(o.runs, s)
				if w.breaks(s) == "" {
					meets++
				}
			}
		}
		if len(o.runs) == 0 {
			continue
		}
		out.Curve = append(out.Curve, CurvePoint{RequestsPerSecond: rate, Predicted: predicted(o, w.replicas, w.sim), Meets: 2*meets > len(o.runs)})
	}
}

// pareto front of tokens per user against tokens per GPU.
func (w *whatIf) pareto(ctx context.Context, out *Simulation, seqs int) {
	for users := 1; users <= min(2*seqs, whatIfRequests) && ctx.Err() == nil; users *= 2 {
		s, ok := w.with(users, 0)
		if !ok || s.TPOT.Mean <= 0 {
			break
		}
		out.Pareto = append(out.Pareto, ParetoPoint{
			Users: users, TokensPerSecondPerUser: 1 / s.TPOT.Mean.Seconds(), TokensPerSecondPerGPU: s.OutputTokenRate / float64(out.GPUs),
		})
	}
	for i, p := range out.Pareto {
		out.Pareto[i].Best = !slices.ContainsFunc(out.Pareto, func(o ParetoPoint) bool {
			return o.TokensPerSecondPerUser >= p.TokensPerSecondPerUser && o.TokensPerSecondPerGPU >= p.TokensPerSecondPerGPU && o != p
		})
	}
}
