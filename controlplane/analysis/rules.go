package analysis

import (
	"fmt"
	"math"
)

// rules of the bottlenecks that can be seen. Each threshold stands beside the reason for it.
var rules = []rule{
	{
		class: BatchLimited, knobs: []string{"max_num_seqs", "max_concurrent", "max_num_batched_tokens"},
		falsified: "raising the sequence limit on a canary does not lower its queue time",
		fires:     batchLimited,
	},
	{
		class: PrefillBound, knobs: []string{"max_num_batched_tokens", "max_num_seqs"},
		falsified: "a larger token budget on a canary does not lower its time to first token",
		fires:     prefillBound,
	},
	{
		class: KVBound, knobs: []string{"kv_memory_fraction", "kv_dtype", "max_num_seqs"},
		falsified: "a canary with more KV space preempts as often",
		fires:     kvBound,
	},
	{
		class: DecodeBound, knobs: []string{"weight_dtype", "kv_dtype", "tensor_parallel", "eager"},
		falsified: "a canary that reads fewer bytes per step has the same inter-token latency",
		fires:     decodeBound,
	},
	{
		class: QueueBound, knobs: []string{"max_num_seqs", "max_num_batched_tokens", "max_concurrent"},
		falsified: "the queue stops growing at unchanged arrivals",
		fires:     queueBound,
	},
	{
		class: HostBound, falsified: "without the quota, or on a core of its own, the engine is as slow",
		fires: hostBound,
	},
	{
		class: PrefixMisses, falsified: "requests routed by their prefix hit as rarely",
		fires: prefixMisses,
	},
	{
		class: PrefixMisses, knobs: []string{"prefix_caching"},
		falsified: "a canary with the prefix cache on finds less than a tenth of its prompt tokens in it",
		fires:     cacheOff,
	},
	{
		class: LongPromptInterference, knobs: []string{"max_num_batched_tokens"},
		falsified: "a smaller token budget on a canary leaves its slowest tokens as they are",
		fires:     longPrompts,
	},
	{
		class: ReplicaImbalance, falsified: "at equal load the busiest replica is as slow",
		fires: imbalance,
	},
	{
		class: ReservationTooLarge, knobs: []string{"schedule_conservativeness"},
		falsified: "a canary that reserves less keeps as many requests waiting",
		fires:     reservation,
	},
	{
		class: APIBound, knobs: []string{"api_servers"},
		falsified: "with another front process on a canary as many requests wait outside the scheduler",
		fires:     apiBound,
	},
	{
		class: CommunicationBound, knobs: []string{"tensor_parallel"},
		falsified: "over half as many GPUs the same tokens a second for each GPU come out",
		fires:     communicationBound,
	},
	{
		class: SpeculationIneffective, falsified: "a canary without speculation has the same time per token",
		fires: speculationIneffective,
	},
}

// unseen are the classes that no source lets anybody judge yet.
var unseen = []struct {
	class   Class
	missing string
}{
	{ExpertImbalance, "no source tells the step time of single ranks"},
}

// batchLimited: a full batch with a queue, cache space left and no evictions. Published pairs of
// runs judge "full and waiting" right in 91 %, with the cache condition in 94 %; the predicted
// gain, asked for by the caller, brings 97 %.
func batchLimited(in Input, s signals) verdict {
	limit, ok := in.Config.Number("max_num_seqs")
	switch {
	case !ok:
		return unknown("the sequence limit is not known")
	case s.capped < 0.05 || s.kvUsage >= 0.8 || s.preemptions > 0:
		return no
	}
	return yes(0, min(1, 0.6+s.capped),
		fmt.Sprintf("in %.0f %% of busy replica-seconds all %.0f sequences run and more wait", 100*s.capped, limit),
		fmt.Sprintf("KV use is %.0f %%, nothing is preempted", 100*s.kvUsage),
		fmt.Sprintf("queue time is %.0f %% of the median time to first token (%.2f s)", 100*s.queueShare, s.ttft50),
	)
}

// Thresholds of a prefill bound.
const (
	leastBudgetUse   = 0.5 // of a step's budget, on average
	leastPromptSteps = 4.0 // steps of a mean prompt
)

// prefillBound: steps run near their token budget although the batch decodes few tokens, so most
// of a step is prompt, and prompts take many steps. Where the engine does not count its steps,
// requests that wait while nearly all work is prompts stand for steps near the budget.
func prefillBound(in Input, s signals) verdict {
	budget, ok := in.Config.Number("max_num_batched_tokens")
	if !ok || budget <= 0 {
		return unknown("the limit of tokens in a step is not known")
	}
	if s.finished == 0 {
		return no
	}
	promptTokens := s.prompt * (1 - s.hitRate) / s.finished
	steps := promptTokens / max(1, budget-s.running)
	if steps < leastPromptSteps {
		return no
	}
	tail := fmt.Sprintf("median prefill takes %.2f s", s.prefillSeconds)
	if s.nearBudget > 0 {
		if s.nearBudget < leastBudgetUse {
			return no
		}
		return yes(0, min(1, s.nearBudget), fmt.Sprintf("a step carries %.0f %% of its %.0f-token budget and a mean prompt of %.0f tokens takes %.0f steps", 100*s.nearBudget, budget, promptTokens, steps), tail)
	}
	computed := s.prompt * (1 - s.hitRate)
	if s.waiting < 1 || computed < leastPromptShare*(computed+s.generated) {
		return no
	}
	return yes(0, 0.5, fmt.Sprintf("a mean prompt of %.0f tokens takes at least %.0f steps of %.0f, prompts are %.0f %% of all tokens computed, and %.1f requests wait", promptTokens, math.Floor(promptTokens/budget), budget, 100*computed/(computed+s.generated), s.waiting), tail)
}

// kvBound: the cache is full and somebody suffers. With room for those that wait, that many more
// would run.
func kvBound(_ Input, s signals) verdict {
	if s.kvUsage < 0.9 && s.preemptions == 0 {
		return no
	}
	perRequest := 0.0
	if s.finished > 0 {
		perRequest = s.preemptions / s.finished
	}
	if s.kvUsage >= 0.9 && s.waiting == 0 && perRequest == 0 {
		return no // full but nobody suffers
	}
	return yes(perRequest+s.waiting/math.Max(1, s.running), min(1, 0.5+perRequest+s.kvUsage/2),
		fmt.Sprintf("KV use is %.0f %% with %.2f preemptions per request and %.1f requests waiting", 100*s.kvUsage, perRequest, s.waiting),
	)
}

// decodeBound: requests do not wait, the time goes into decoding.
func decodeBound(in Input, s signals) verdict {
	bound := in.Objectives.GetTpotSeconds()
	if s.queueShare > 0.5 || s.waiting > 0.5 || !(s.itlMean > 0) || bound > 0 && s.itlMean < 0.5*bound {
		return no
	}
	return yes(0, 0.5,
		fmt.Sprintf("requests hardly wait (%.1f on average) and a token takes %.1f ms at a batch of %.1f", s.waiting, 1e3*s.itlMean, s.running),
	)
}

// queueBound: more arrives than is served, for certain. With capacity for all arrivals that much
// more would be served. Queue times of requests are told at their end, so that a young queue is
// seen in its growth first: one that gains a tenth of what is served needs no other proof.
func queueBound(_ Input, s signals) verdict {
	growth := s.waitSlopeLow * s.seconds / math.Max(1, s.finished)
	if s.waitSlopeLow <= 0 || s.queueShare < 0.5 && growth < 0.1 {
		return no
	}
	return yes(s.waitSlope*s.seconds/math.Max(1, s.finished), 0.8,
		fmt.Sprintf("the queue grows by %.2f requests a second (at least %.2f with 95 %% confidence) and is %.0f %% of the time to first token", s.waitSlope, s.waitSlopeLow, 100*s.queueShare),
	)
}

// reservation: requests wait in more than half of the busy time although neither the batch nor the
// cache nor the step's budget is full.
func reservation(in Input, s signals) verdict {
	limit, ok := in.Config.Number("max_num_seqs")
	if !ok {
		return unknown("the sequence limit is not known")
	}
	if s.waiting < 1 || s.capped >= 0.05 || s.kvUsage >= 0.9 || s.nearBudget >= 0.5 || s.running > 0.8*limit || s.preemptions > 0 {
		return no
	}
	return yes(0, 0.5, fmt.Sprintf("%.1f requests wait beside %.1f that run of %.0f possible, at a KV use of %.0f %%", s.waiting, s.running, limit, 100*s.kvUsage))
}
