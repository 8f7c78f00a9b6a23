package workload

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"gonum.org/v1/gonum/stat/distuv"
)

// Replay makes traffic of a shape: as many requests in each slot of time as were captured, spread within it
// as unevenly as the splits say, with lengths of the same distribution and prefixes that repeat as often
// and after as long. Equal shape and seed give equal traces.
func (s *Shape) Replay(seed uint64) ([]Request, error) {
	if s.requests == 0 {
		return nil, fmt.Errorf("%w: no traffic was captured", ErrSpec)
	}
	offsets := s.arrivals.replay(stream(seed, 1))
	trace := make([]Request, len(offsets))
	prompts, outputs := s.lengths(len(offsets), stream(seed, 2))
	for i, at := range offsets {
		trace[i] = Request{Offset: time.Duration((at - offsets[0]) * float64(time.Second)), PromptTokens: prompts[i], OutputTokens: outputs[i]}
	}
	if s.reuse.known() {
		s.reuse.replay(trace, stream(seed, 3))
	}
	return trace, nil
}

// lengths draws every percentile of both distributions once, so that they come out as they were captured,
// paired by normal scores of the captured correlation.
func (s *Shape) lengths(n int, rng *rand.Rand) (prompts, outputs []int) {
	r := s.logs.correlation()
	x, y := make([]float64, n), make([]float64, n)
	for i := range n {
		x[i] = rng.NormFloat64()
		y[i] = r*x[i] + math.Sqrt(1-r*r)*rng.NormFloat64()
	}
	return ranked(x, s.prompt), ranked(y, s.output)
}

// ranked gives each score the length at its rank.
func ranked(scores []float64, b bins) []int {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(scores[i], scores[j]) })
	lengths := make([]int, len(scores))
	for rank, i := range order {
		lengths[i] = b.at((float64(rank) + .5) / float64(len(scores)))
	}
	return lengths
}

// replay returns the times of the requests, in order, in seconds.
func (a *arrivalShape) replay(rng *rand.Rand) []float64 {
	var times []float64
	for i, n := range a.slots {
		from := math.Ldexp(float64(a.base+int64(i)), a.level)
		to := from + math.Ldexp(1, a.level)
		var inside []float64
		a.spread(&inside, rng, from, to, int(n), a.level)
		// The first and the last slot were watched in part only.
		low, high := max(from, a.first), min(to, a.last)
		for _, t := range inside {
			times = append(times, low+(t-from)/(to-from)*(high-low))
		}
	}
	slices.Sort(times)
	return times
}

// spread places n requests between two times, halving the span down to the lowest level.
func (a *arrivalShape) spread(times *[]float64, rng *rand.Rand, from, to float64, n, level int) {
	if n == 0 {
		return
	}
	if level < lowestLevel || level > highestLevel {
		for range n {
			*times = append(*times, from+rng.Float64()*(to-from))
		}
		return
	}
	left := divide(rng, n, a.splits[level-lowestLevel][crowd(float64(n))].rho())
	middle := (from + to) / 2
	a.spread(times, rng, from, middle, left, level-1)
	a.spread(times, rng, middle, to, n-left, level-1)
}

// divide draws how many of n requests fall on the left half, so that the difference of the halves has the
// variance n + n(n−1)ρ.
func divide(rng *rand.Rand, n int, rho float64) int {
	switch {
	case n == 1:
		return rng.IntN(2)
	case rho >= .999:
		return n * rng.IntN(2)
	case rho > 0:
		a := (1 - rho) / (2 * rho)
		return int(distuv.Binomial{N: float64(n), P: distuv.Beta{Alpha: a, Beta: a, Src: rng}.Rand(), Src: rng}.Rand())
	}
	variance := max(float64(n)+float64(n)*float64(n-1)*rho, 0)
	left := int(math.Floor((float64(n)+math.Sqrt(variance)*rng.NormFloat64())/2 + rng.Float64()))
	return min(max(left, 0), n)
}

// replay gives every request a prefix: the captured part of it that of an earlier request, as long ago as
// was captured, the rest new.
func (r *reuseShape) replay(trace []Request, rng *rand.Rand) {
	u := reused{trace: trace, used: map[uint64]time.Duration{}}
	fresh := uint64(0)
	for i := range trace {
		q := &trace[i]
		q.PrefixBlock = r.block
		blocks := q.PromptTokens / r.block
		if share := drawBin(rng, r.shares[r.bucketFor(q.PromptTokens)][:]); share > 0 && blocks > 0 {
			shared := r.drawBlocks(rng, share, q.PromptTokens)
			age := time.Duration(r.drawAge(rng, share) * float64(time.Second))
			if from := u.partner(i, age, shared); from >= 0 {
				q.Prefix = append(q.Prefix, trace[from].Prefix[:shared]...)
			}
		}
		for len(q.Prefix) < blocks {
			fresh++
			q.Prefix = append(q.Prefix, fresh)
		}
		for _, k := range q.Prefix {
			u.used[k] = q.Offset
		}
	}
}

// drawBlocks draws how many blocks of a prompt were seen before, of those whose part falls into the bin.
func (r *reuseShape) drawBlocks(rng *rand.Rand, share, tokens int) int {
	blocks := share
	switch {
	case share == 2:
		blocks += rng.IntN(2)
	case share >= firstEighth:
		part := (float64(share-firstEighth) + rng.Float64()) / 8
		blocks = max(int(math.Round(part*float64(tokens)/float64(r.block))), 2)
	}
	return min(blocks, tokens/r.block)
}

// bucketFor is the bucket of a length, or the nearest in which anything was captured.
func (r *reuseShape) bucketFor(tokens int) int {
	at := lengthBucket(tokens)
	for d := range lengthBuckets {
		for _, b := range []int{at - d, at + d} {
			if b >= 0 && b < lengthBuckets && r.shares[b] != [shareBins]uint64{} {
				return b
			}
		}
	}
	return at
}

// drawAge draws for how many seconds the shared part was not used.
func (r *reuseShape) drawAge(rng *rand.Rand, share int) float64 {
	bin := drawBin(rng, r.ages[share][:])
	high := math.Ldexp(1, bin+youngestAge)
	if bin == 0 {
		return rng.Float64() * high
	}
	return high / 2 * math.Exp2(rng.Float64())
}

// drawBin draws a bin by its count, 0 if all are empty.
func drawBin(rng *rand.Rand, counts []uint64) int {
	total := uint64(0)
	for _, n := range counts {
		total += n
	}
	if total == 0 {
		return 0
	}
	left := rng.Uint64N(total)
	for i, n := range counts {
		if left < n {
			return i
		}
		left -= n
	}
	return 0
}

// partners is how many requests to each side of the wanted time are looked at.
const partners = 512

// reused is the state of a replay of prefixes.
type reused struct {
	trace []Request
	used  map[uint64]time.Duration // when each block was last used
}

// partner is the earlier request whose first blocks are to be shared; -1 if none has as many. The best is
// one of which the last shared block was last used an age ago, so that a cache of any size finds it as often
// as it did, and which is hardly longer, as a conversation goes on where it stopped.
func (u *reused) partner(next int, age time.Duration, blocks int) int {
	const fair = .2
	at := u.trace[next].Offset - age
	start, _ := slices.BinarySearchFunc(u.trace[:next], at, func(r Request, t time.Duration) int { return cmp.Compare(r.Offset, t) })
	best, least := -1, math.Inf(1)
	for d := 0; d < partners && least > fair; d++ {
		for _, i := range []int{start - 1 - d, start + d} {
			if i < 0 || i >= next || len(u.trace[i].Prefix) < blocks {
				continue
			}
			n := len(u.trace[i].Prefix)
			off := (u.used[u.trace[i].Prefix[blocks-1]] - at).Abs()
			unlike := float64(off)/float64(max(age, time.Second/16)) + float64(n-blocks)/float64(n)*longer(blocks)
			if unlike < least {
				best, least = i, unlike
			}
		}
	}
	return best
}

// longer is how much it matters that a partner goes on beyond the shared part: not for what everybody
// begins with.
func longer(blocks int) float64 {
	if blocks <= 3 {
		return 0
	}
	return 1
}
