package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

const (
	loadSpan      = 10 * time.Second // over which the present load is measured
	fullSpan      = time.Minute      // over which a replica's capacity is extrapolated
	baselineSpan  = 2 * time.Minute  // before the first wave
	regressSpan   = 30 * time.Second // over which a hard regression is looked for
	settleTime    = 2 * time.Second  // windows may be this late
	judgeInterval = 5 * time.Second
)

// observe looks at a rollout's group. It reads, and keeps in w what must be seen twice.
func (c *Controller) observe(r *commandv1.Rollout, term uint64, w *watch) Observation {
	group := c.state.Group(r.GetGroup())
	o := Observation{
		Now: c.cfg.Now(), Term: term, Incarnation: c.state.Cluster().Incarnation,
		Members: c.state.Instances(r.GetGroup()), LockHolder: group.GetLockHolder(), First: c.first(r),
	}
	if r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_QUEUED && c.budget != nil {
		o.Budget = c.budget.Gate(r.GetGroup())
	}
	if r.GetEpoch() == 0 || fsm.TakingBack(r.GetState()) {
		return o
	}
	if !o.Now.Before(w.lookAt) {
		w.lookAt = o.Now.Add(c.cfg.Every)
		w.headroom = c.headroom(o)
		o.Guard = c.guard(r, o, w)
	}
	o.Headroom = w.headroom
	if r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT {
		o.Baseline = summarise(c.merge(idsOf(o.Members), o.Now.Add(-max(baselineSpan, observeMin(r))), o.Now, nil))
	}
	o.Verdict = c.judge(r, o, w)
	if o.Verdict.GetOutcome() == commandv1.Outcome_OUTCOME_FAIL {
		o.Guard = nil // the verdict says it better
	}
	return o
}

func observeMin(r *commandv1.Rollout) time.Duration {
	return time.Duration(r.GetPolicy().GetObserveMinMs()) * time.Millisecond
}

// first reports whether no older rollout waits for the same group.
func (c *Controller) first(r *commandv1.Rollout) bool {
	for _, other := range c.state.OpenRollouts() {
		waits := other.GetGroup() == r.GetGroup() && other.GetEpoch() == 0 && other.GetId() != r.GetId()
		if waits && (other.GetCreatedMs() < r.GetCreatedMs() || other.GetCreatedMs() == r.GetCreatedMs() && other.GetId() < r.GetId()) {
			return false
		}
	}
	return true
}

func idsOf(members []*commandv1.Instance) []string {
	ids := make([]string, len(members))
	for k, i := range members {
		ids[k] = i.GetId()
	}
	return ids
}

// merge the windows that keep accepts; nil accepts all.
func (c *Controller) merge(ids []string, from, to time.Time, keep func(*fleet.Window) bool) *fleet.Aggregate {
	a := fleet.NewAggregate()
	if len(ids) == 0 {
		return a
	}
	for _, w := range c.telemetry.Windows(ids, from, to) {
		if keep != nil && !keep(w) {
			continue
		}
		if err := a.Add(w); err != nil {
			c.logger.Warn("a window could not be merged", "instance", w.Instance, "error", err)
		}
	}
	return a
}

// headroom measures the load and what each replica could carry.
func (c *Controller) headroom(o Observation) Headroom {
	h := Headroom{Capacity: map[string]float64{}}
	recent := c.merge(idsOf(o.Members), o.Now.Add(-loadSpan-settleTime), o.Now, nil)
	h.Measured = recent.Windows > 0
	h.Load = recent.Rate(fleet.PromptTokens) + recent.Rate(fleet.GenerationTokens)
	for _, i := range o.Members {
		if v, known := c.capacityOf(i, o.Now); known {
			h.Capacity[i.GetId()] = v
		}
	}
	return h
}

// capacityOf a replica: what the predictor says; without it, the present rate divided by how full
// the replica is.
func (c *Controller) capacityOf(i *commandv1.Instance, now time.Time) (float64, bool) {
	if c.predictor != nil {
		if v, known := c.predictor.TokensPerSecond(i); known {
			return v, true
		}
	}
	a := c.merge([]string{i.GetId()}, now.Add(-fullSpan), now, func(w *fleet.Window) bool { return w.Serving })
	if a.Windows == 0 {
		return 0, false
	}
	return extrapolate(a, c.slots(i))
}

// slots is how many requests the replica runs at once at most, 0 when its settings do not say.
func (c *Controller) slots(i *commandv1.Instance) float64 {
	for _, k := range c.state.KnobTable(i.GetKnobTableHash()).GetDescription().GetKnobs() {
		if k.GetNeutral() != "max_num_seqs" {
			continue
		}
		n, err := strconv.ParseFloat(cmp.Or(i.GetEffective()[k.GetName()], k.GetDefaultValue()), 64)
		if err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// extrapolate a replica's capacity from how full it was: its KV cache, its slots for requests, or
// its queue. An idle one is taken to carry a thousand tokens a second.
func extrapolate(a *fleet.Aggregate, slots float64) (float64, bool) {
	const idle, idleRate = 0.02, 1000.0
	full := a.Gauges[fleet.KVUsage].Mean()
	running, waiting := a.Gauges[fleet.RequestsRunning], a.Gauges[fleet.RequestsWaiting]
	if slots > 0 && running.N > 0 {
		full = max(running.Mean()/slots, a.Gauges[fleet.KVUsage].Sum/float64(max(a.Gauges[fleet.KVUsage].N, 1)))
	}
	if waiting.N > 0 && waiting.Mean() >= 1 {
		full = 1
	}
	rate := a.Rate(fleet.PromptTokens) + a.Rate(fleet.GenerationTokens)
	switch {
	case full != full: // NaN: neither gauge was seen
		return 0, false
	case full < idle:
		return max(rate, idleRate), true
	}
	return rate / min(full, 1), true
}

// arms merges the changed replicas' windows and their controls' over a span.
func (c *Controller) arms(r *commandv1.Rollout, o Observation, from, to time.Time) Case {
	k := Case{Policy: r.GetPolicy(), From: from, To: to, Baseline: r.GetBaseline()}
	k.Canary = c.merge(Canaries(r, o.Members, o.Incarnation), from, to, func(w *fleet.Window) bool {
		return w.Serving && w.Epoch == r.GetEpoch()
	})
	if controls := Controls(r, o.Members, o.Incarnation); len(controls) > 0 {
		k.Control = c.merge(controls, from, to, func(w *fleet.Window) bool { return w.Serving && w.Epoch != r.GetEpoch() })
	}
	return k
}

// judge asks about the present wave while it is observed; nil between two sittings.
func (c *Controller) judge(r *commandv1.Rollout, o Observation, w *watch) *commandv1.Verdict {
	wave := fsm.CurrentWave(r)
	observed := r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_OBSERVING || r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_HOLDING
	if !observed || wave.GetConfirmed() || o.Now.Before(w.judgeAt) {
		return nil
	}
	w.judgeAt = o.Now.Add(c.cfg.JudgeEvery)
	from := time.UnixMilli(wave.GetObserveFromMs())
	k := c.arms(r, o, from, o.Now)
	j := c.ask(k)
	w.hard = count(j.Hard, w.hard)
	if w.hard >= hardSittings {
		j.Outcome = commandv1.Outcome_OUTCOME_FAIL
	}
	v := &commandv1.Verdict{
		Outcome: j.Outcome, Summary: j.Summary, Term: o.Term,
		EvidenceFromMs: from.UnixMilli(), EvidenceToMs: max(o.Now.UnixMilli(), from.UnixMilli()),
	}
	if v.Outcome == commandv1.Outcome_OUTCOME_INCONCLUSIVE && o.Now.Sub(from) < observeMin(r) {
		return nil // it is simply too early to hold
	}
	v.EvidenceHash = c.keep(r, k, j)
	return v
}

// ask the judge; a panic in the numerics is no evidence of anything.
func (c *Controller) ask(k Case) (j Judgement) {
	defer func() {
		if p := recover(); p != nil {
			c.logger.Error("judge panicked", "panic", fmt.Sprint(p))
			j = Judgement{Outcome: commandv1.Outcome_OUTCOME_INCONCLUSIVE, Summary: "the comparison failed"}
		}
	}()
	return c.judgeOf.Judge(k)
}

// guard looks for hard faults, every time and in every state that has changed replicas.
func (c *Controller) guard(r *commandv1.Rollout, o Observation, w *watch) *Guard {
	if len(fsm.OfferedTo(r)) == 0 {
		return nil
	}
	canaries := Canaries(r, o.Members, o.Incarnation)
	onEpoch := func(win *fleet.Window) bool { return win.Serving && win.Epoch == r.GetEpoch() }
	for _, g := range []*Guard{
		faultReported(r, o),
		failing("the changed replicas", c.merge(canaries, o.Now.Add(-guardSpan), o.Now, onEpoch)),
		failing("the whole group", c.merge(idsOf(o.Members), o.Now.Add(-guardSpan), o.Now, nil)),
		hanging(c.merge(canaries, o.Now.Add(-hangSpan), o.Now, onEpoch)),
	} {
		if g != nil {
			return g
		}
	}
	if g := c.fast(r, o); g != nil {
		return g
	}
	if g := c.overspent(r, o); g != nil {
		return g
	}
	return c.regression(r, o, w)
}

// overspent ends a rollout that has certainly cost more of an error budget than one may.
func (c *Controller) overspent(r *commandv1.Rollout, o Observation) *Guard {
	if c.budget == nil {
		return nil
	}
	if why := c.budget.Overspent(r); why != "" {
		return &Guard{Reason: why, Since: o.Now, EvidenceHash: hashOf([]byte(why))}
	}
	return nil
}

// regression looks for a hard regression over the last seconds. It takes two sittings in a row, and
// controls: without them a burst of load would pass for harm.
func (c *Controller) regression(r *commandv1.Rollout, o Observation, w *watch) *Guard {
	k := c.arms(r, o, o.Now.Add(-regressSpan), o.Now)
	if k.Control == nil {
		w.strikes = 0
		return nil
	}
	j := c.ask(k)
	w.strikes = count(j.Hard, w.strikes)
	if w.strikes < hardSittings {
		return nil
	}
	return &Guard{Reason: j.Summary, Since: k.Canary.From, EvidenceHash: c.keep(r, k, j)}
}

// hardSittings in a row must find a hard regression.
const hardSittings = 2

// count how many sittings in a row found something.
func count(found bool, before int) int {
	if !found {
		return 0
	}
	return before + 1
}

// keep files the evidence and returns its hash. A disk that does not take it must not stop a
// mitigation: the hash then stands for what was seen, and the loss is logged.
func (c *Controller) keep(r *commandv1.Rollout, k Case, j Judgement) string {
	raw, err := json.Marshal(map[string]any{
		"rollout": r.GetId(), "epoch": r.GetEpoch(), "wave": len(r.GetWaves()), "from": k.From, "to": k.To,
		"outcome": j.Outcome.String(), "hard": j.Hard, "summary": j.Summary, "ratios": finite(j.Ratios),
		"canary": sideOf(k.Canary), "control": sideOf(k.Control), "baseline": k.Baseline.GetValues(),
	})
	if err != nil {
		c.logger.Error("evidence could not be written down", "rollout", r.GetId(), "error", err)
		return hashOf(fmt.Appendf(nil, "%s %s", r.GetId(), j.Summary))
	}
	if _, err := c.evidence.Put(raw); err != nil {
		c.logger.Error("evidence could not be filed", "rollout", r.GetId(), "error", err)
	}
	return hashOf(raw)
}

// finite leaves out ratios that JSON cannot hold.
func finite(ratios []Ratio) []Ratio {
	return slices.DeleteFunc(slices.Clone(ratios), func(r Ratio) bool {
		for _, v := range []float64{r.Canary, r.Control, r.Ratio, r.Low} {
			if v-v != 0 { // NaN or infinite
				return true
			}
		}
		return false
	})
}

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// side is one arm in an evidence file.
type side struct {
	Instances map[string]int     `json:"instances"`
	Counters  map[string]float64 `json:"counters"`
	StaleSecs int                `json:"stale_seconds"`
}

func sideOf(a *fleet.Aggregate) *side {
	if a == nil {
		return nil
	}
	return &side{Instances: a.Instances, Counters: a.Counters, StaleSecs: a.StaleSecs}
}
