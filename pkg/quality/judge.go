package quality

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/load"
)

// MinPrompts is how many prompts a judgement needs.
const MinPrompts = 200

const (
	defaultScoreLoss   = 0.05 // of right answers
	agreementLoss      = 0.10 // of agreement with the baseline, beyond its own, where answers cannot be right
	defaultLogprobDiff = 0.10 // nats per token
	minLogprobs        = 0.9  // share of answers that must come with log-probabilities
	maxFailures        = 0.05 // share of prompts without an answer
	minScored          = 50   // prompts with a known right answer
	minScore           = 0.2  // share that the baseline must get right for its score to tell anything
	passEvidence       = 20   // Ville: a lossy candidate passes with chance 1/20 at most
	failEvidence       = 100
	moreOften          = 0.03 // share of prompts by which refusals, empty or repetitive answers may grow
	lengthLow          = 0.75
	lengthHigh         = 1 / lengthLow
	examples           = 5
)

// Judge compares a candidate's answers with the baseline's, given twice. It passes only what is
// proven; what cannot be judged has not passed.
func Judge(questions []Question, baseline, again, candidate []Answer, limits load.Quality) load.Judgement {
	limits.MaxScoreLoss = cmp.Or(limits.MaxScoreLoss, defaultScoreLoss)
	limits.MaxLogprobDiff = cmp.Or(limits.MaxLogprobDiff, defaultLogprobDiff)
	trios := match(questions, baseline, again, candidate)
	j := load.Judgement{Prompts: len(trios)}
	j.Failed = [2]int{missing(trios, func(t trio) Answer { return t.base }), missing(trios, func(t trio) Answer { return t.cand })}
	if why := cannotRun(j, trios); why != "" {
		j.Words = "not judged, and so not passed: " + why
		return j
	}
	trios = slices.DeleteFunc(trios, trio.incomplete)
	j.Ran = true
	describe(&j, trios)
	decided, passed := sequential(&j, trios, limits)
	j.Faults = faults(j, limits)
	switch {
	case decided && !passed:
		j.Faults = append([]string{fmt.Sprintf("the candidate is proven to lose more than %.0f %% of %s", 100*margin(j, limits), what(j.Primary))}, j.Faults...)
	case !decided:
		j.Faults = append([]string{fmt.Sprintf("%d prompts do not prove that the candidate loses at most %.0f %% of %s", j.Prompts, 100*margin(j, limits), what(j.Primary))}, j.Faults...)
	}
	j.Passed = len(j.Faults) == 0
	j.Words = words(j)
	return j
}

// trio is one question with all answers to it.
type trio struct {
	q                 Question
	base, again, cand Answer
}

func match(questions []Question, sets ...[]Answer) []trio {
	var by [3]map[string]Answer
	for k, set := range sets {
		by[k] = map[string]Answer{}
		for _, a := range set {
			by[k][a.ID] = a
		}
	}
	get := func(k int, id string) Answer {
		if a, ok := by[k][id]; ok {
			return a
		}
		return Answer{ID: id, Error: "it was not asked"}
	}
	out := make([]trio, len(questions))
	for i, q := range questions {
		out[i] = trio{q, get(0, q.ID), get(1, q.ID), get(2, q.ID)}
	}
	return out
}

func (t trio) incomplete() bool { return t.base.Error+t.again.Error+t.cand.Error != "" }

func missing(ts []trio, of func(trio) Answer) (n int) {
	for _, t := range ts {
		if of(t).Error != "" {
			n++
		}
	}
	return n
}

// cannotRun says why there is nothing to judge by.
func cannotRun(j load.Judgement, ts []trio) string {
	if j.Prompts < MinPrompts {
		return fmt.Sprintf("%d prompts are fewer than the %d that a judgement needs", j.Prompts, MinPrompts)
	}
	failed, first, scored, why := 0, "", 0, ""
	for _, t := range ts {
		if t.incomplete() {
			failed++
			first = cmp.Or(first, t.base.Error, t.again.Error, t.cand.Error)
			continue
		}
		if len(t.base.Logprobs) > 0 && len(t.again.Logprobs) == len(t.base.Logprobs) && len(t.cand.Logprobs) == len(t.base.Logprobs) {
			scored++
		} else {
			why = cmp.Or(why, t.base.LogprobError, t.again.LogprobError, t.cand.LogprobError, "their numbers differ")
		}
	}
	switch {
	case float64(failed) > maxFailures*float64(len(ts)):
		return fmt.Sprintf("%d of %d prompts were not answered, the first because of: %s", failed, len(ts), first)
	case float64(scored) < minLogprobs*float64(len(ts)-failed):
		return fmt.Sprintf("log-probabilities of forced tokens came with %d of %d answers: %s", scored, len(ts)-failed, why)
	}
	return ""
}

// describe fills in the figures that need no decision.
func describe(j *load.Judgement, ts []trio) {
	var differ []float64
	var lengths [2]float64
	var scored, right [2]float64
	n := float64(len(ts))
	for _, t := range ts {
		j.Agreement += same(t.base, t.cand)
		j.SelfAgreement += same(t.base, t.again)
		if t.base.Text != t.cand.Text {
			differ = append(differ, divergence(t.base.Text, t.cand.Text))
			if len(j.WorstExamples) < examples && Right(t.base.Text, t.q.Expect) && !Right(t.cand.Text, t.q.Expect) {
				j.WorstExamples = append(j.WorstExamples, load.Example{ID: t.q.ID, Prompt: t.q.Prompt, Expect: t.q.Expect, Baseline: t.base.Text, Candidate: t.cand.Text})
			}
		}
		for k, a := range []Answer{t.base, t.cand} {
			lengths[k] += float64(a.Tokens)
			if t.q.Expect != "" {
				scored[k]++
				right[k] += bit(Right(a.Text, t.q.Expect))
			}
			j.Refusals[k] += int(bit(refuses(a.Text)))
			j.Empty[k] += int(bit(strings.TrimSpace(a.Text) == ""))
			j.Repetitive[k] += int(bit(repetitive(a.Text)))
		}
	}
	j.Agreement, j.SelfAgreement = j.Agreement/n, j.SelfAgreement/n
	j.LengthRatio = lengths[1] / max(lengths[0], 1)
	j.BaselineScore, j.CandidateScore = right[0]/max(scored[0], 1), right[1]/max(scored[1], 1)
	if len(differ) > 0 {
		slices.Sort(differ)
		j.FirstDivergence = differ[len(differ)/2]
	}
	j.Primary = "agreement"
	if scored[0] >= minScored && j.BaselineScore >= minScore {
		j.Primary = "score"
	}
	logprobs(j, ts)
}

// logprobs compares what each side thinks of the same tokens.
func logprobs(j *load.Judgement, ts []trio) {
	var diff, noise, n float64
	for _, t := range ts {
		if len(t.cand.Logprobs) != len(t.base.Logprobs) || len(t.again.Logprobs) != len(t.base.Logprobs) {
			continue
		}
		for k, b := range t.base.Logprobs {
			diff += math.Abs(t.cand.Logprobs[k] - b)
			noise += math.Abs(t.again.Logprobs[k] - b)
			n++
		}
	}
	j.ForcedTokens = int(n)
	j.LogprobDiff, j.LogprobNoise = diff/max(n, 1), noise/max(n, 1)
}

func same(a, b Answer) float64 { return bit(a.Text == b.Text) }

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// sequential takes prompts one after the other, in a drawn order, until the evidence suffices to pass
// or to fail the candidate.
func sequential(j *load.Judgement, ts []trio, limits load.Quality) (decided, passed bool) {
	ts = slices.Clone(ts)
	rng := rand.New(rand.NewPCG(1, uint64(len(ts)))) // fixed: equal answers give equal judgements
	rng.Shuffle(len(ts), func(a, b int) { ts[a], ts[b] = ts[b], ts[a] })
	var steps []float64
	for _, t := range ts {
		d := same(t.base, t.cand) - same(t.base, t.again)
		if j.Primary == "score" {
			if t.q.Expect == "" {
				continue
			}
			d = bit(Right(t.cand.Text, t.q.Expect)) - bit(Right(t.base.Text, t.q.Expect))
			j.Lost += int(bit(d < 0))
			j.Won += int(bit(d > 0))
		}
		steps = append(steps, d)
	}
	j.ScoreLossBound = lossBound(steps)
	fine, harm := newSignTest(margin(*j, limits), +1), newSignTest(margin(*j, limits), -1)
	for k, d := range steps {
		switch pass, fail := fine.add(d) >= math.Log(passEvidence), harm.add(d) >= math.Log(failEvidence); {
		case fail:
			j.Used = k + 1
			return true, false
		case pass:
			j.Used = k + 1
			return true, true
		}
	}
	return false, false
}

// lossBound is the smallest loss that the steps disprove at the level of a pass; 1 when none.
func lossBound(steps []float64) float64 {
	for percent := 1; percent < 100; percent++ {
		t := newSignTest(float64(percent)/100, +1)
		evidence := math.Inf(-1)
		for _, d := range steps {
			evidence = t.add(d)
		}
		if evidence >= math.Log(passEvidence) {
			return float64(percent) / 100
		}
	}
	return 1
}

// faults are what keeps a candidate from passing beside the sequential test.
func faults(j load.Judgement, limits load.Quality) (out []string) {
	if d := j.LogprobDiff - j.LogprobNoise; d > limits.MaxLogprobDiff {
		out = append(out, fmt.Sprintf("forced tokens' log-probabilities differ by %.3f on average, %.3f more than the baseline's own do and more than %.3f allowed", j.LogprobDiff, d, limits.MaxLogprobDiff))
	}
	if j.LengthRatio < lengthLow || j.LengthRatio > lengthHigh {
		out = append(out, fmt.Sprintf("answers are %.2f times as long", j.LengthRatio))
	}
	allowed := int(moreOften * float64(j.Prompts))
	for _, c := range []struct {
		name  string
		count [2]int
	}{{"refusals", j.Refusals}, {"empty answers", j.Empty}, {"repetitive answers", j.Repetitive}, {"prompts without an answer", j.Failed}} {
		if c.count[1] > c.count[0]+allowed {
			out = append(out, fmt.Sprintf("%d %s, %d of the baseline", c.count[1], c.name, c.count[0]))
		}
	}
	return out
}

// margin is the loss that the sequential test allows.
func margin(j load.Judgement, limits load.Quality) float64 {
	if j.Primary == "score" {
		return limits.MaxScoreLoss
	}
	return agreementLoss
}

func what(primary string) string {
	if primary == "score" {
		return "the right answers"
	}
	return "the agreement that the baseline has with itself"
}

func words(j load.Judgement) string {
	figures := fmt.Sprintf("%d prompts, right %.0f %% against %.0f %%, %.0f %% equal to the letter (%.0f %% of the baseline's own), log-probabilities of %d forced tokens differ by %.4f (%.4f)",
		j.Prompts, 100*j.CandidateScore, 100*j.BaselineScore, 100*j.Agreement, 100*j.SelfAgreement, j.ForcedTokens, j.LogprobDiff, j.LogprobNoise)
	if j.Passed {
		return "as good as the baseline's: " + figures
	}
	return strings.Join(j.Faults, "; ") + ": " + figures
}
