package workload

import (
	"container/list"
	"math"
	"slices"
	"time"
)

// Summary describes a trace by the statistics in which published traces are compared.
type Summary struct {
	Requests         int
	Rate             float64    // per second, over the span between the first and the last request
	GapCV            float64    // coefficient of variation of the gaps between arrivals
	Dispersion       float64    // variance ÷ mean of the count per 10 s; 1 for a Poisson process
	Prompt           [3]float64 // p50, p90, p99 in tokens
	Output           [3]float64
	MeanPrompt       float64
	MeanOutput       float64
	PeakRate         float64 // largest count in 10 s, per second
	SharedPrefixRate float64 // share of prompt tokens in a shared group
}

// dispersionWindow is the interval of the counts behind Summary.Dispersion.
const dispersionWindow = 10 * time.Second

// Summarize computes the statistics of a trace in order of arrival.
func Summarize(trace []Request) Summary {
	s := Summary{Requests: len(trace)}
	if len(trace) < 2 {
		return s
	}
	var prompts, outputs, gaps []float64
	var shared float64
	for i, r := range trace {
		prompts = append(prompts, float64(r.PromptTokens))
		outputs = append(outputs, float64(r.OutputTokens))
		if r.Group > 0 {
			shared += float64(r.GroupTokens)
		}
		if i > 0 {
			gaps = append(gaps, (r.Offset - trace[i-1].Offset).Seconds())
		}
	}
	span := (trace[len(trace)-1].Offset - trace[0].Offset).Seconds()
	if span > 0 {
		s.Rate = float64(len(trace)-1) / span
		mean, sd := moments(gaps)
		s.GapCV = sd / mean
		s.Dispersion, s.PeakRate = dispersion(trace)
	}
	s.MeanPrompt, _ = moments(prompts)
	s.MeanOutput, _ = moments(outputs)
	s.SharedPrefixRate = shared / (s.MeanPrompt * float64(len(trace)))
	s.Prompt, s.Output = threeQuantiles(prompts), threeQuantiles(outputs)
	return s
}

// dispersion looks at whole windows only.
func dispersion(trace []Request) (index, peak float64) {
	first := trace[0].Offset
	counts := make([]float64, int((trace[len(trace)-1].Offset-first)/dispersionWindow))
	for _, r := range trace {
		if i := int((r.Offset - first) / dispersionWindow); i < len(counts) {
			counts[i]++
		}
	}
	if len(counts) < 2 {
		return 0, 0
	}
	mean, sd := moments(counts)
	return sd * sd / mean, slices.Max(counts) / dispersionWindow.Seconds()
}

func moments(v []float64) (mean, sd float64) {
	for _, x := range v {
		mean += x
	}
	mean /= float64(len(v))
	for _, x := range v {
		sd += (x - mean) * (x - mean)
	}
	return mean, math.Sqrt(sd / float64(len(v)))
}

func threeQuantiles(v []float64) (q [3]float64) {
	slices.Sort(v)
	for i, p := range []float64{.5, .9, .99} {
		q[i] = v[min(int(p*float64(len(v))), len(v)-1)]
	}
	return q
}

// ReuseRate is the share of prompt tokens that a prefix cache of so many tokens would have found, were all
// requests computed one after the other: full blocks of prefix in least-recently-used order, answers not kept.
// 0 tokens stand for a cache without limit.
func ReuseRate(trace []Request, capacityTokens int) float64 {
	order := list.New() // of keys, the newest at the back
	places := map[uint64]*list.Element{}
	var hit, total float64
	for _, r := range trace {
		total += float64(r.PromptTokens)
		keys, block := prefixOf(r)
		found := true
		for i, k := range keys {
			place := places[k]
			if found = found && place != nil && (i+1)*block <= r.PromptTokens; found {
				hit += float64(block)
			}
			if place != nil {
				order.MoveToBack(place)
			} else {
				places[k] = order.PushBack(k)
			}
		}
		for capacityTokens > 0 && block > 0 && order.Len() > max(capacityTokens/block, 1) {
			delete(places, order.Remove(order.Front()).(uint64))
		}
	}
	if total == 0 {
		return 0
	}
	return hit / total
}
