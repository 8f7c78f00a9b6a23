package experiment

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/optiinfra/performance-agent/pkg/load"
)

const (
	boundLevel = 0.99 // of one-sided bounds
	resamples  = 1000
	minBlocks  = 5 // of a run, whatever the time of a request
)

// estimate of the logarithm of a ratio, turned so that above 0 is better.
type estimate struct {
	diff, low, high float64
	// harm is the p-value of "worse by more than the margin".
	harm float64
	// noise is the standard deviation of the baseline's logarithm between restarts.
	noise float64
	known bool
}

// logs of a metric's figures of runs; false when one has none.
func (m metric) logs(rs []*load.Report) ([]float64, bool) {
	out := make([]float64, len(rs))
	for i, r := range rs {
		v := m.of(r)
		if !(v > 0) || math.IsInf(v, 0) {
			return nil, false
		}
		if out[i] = math.Log(v); !m.higher {
			out[i] = -out[i]
		}
	}
	return out, len(out) > 0
}

// betweenRuns compares by what single runs gave: Student's t, with the variance of both arms taken
// together, since few runs tell it badly. It is what restarts and drift between runs do.
func (m metric) betweenRuns(base, cand []*load.Report, margin float64, paired bool) estimate {
	b, okB := m.logs(base)
	c, okC := m.logs(cand)
	if !okB || !okC {
		return estimate{}
	}
	e := estimate{known: true}
	_, e.noise = moments(b)
	var se, df float64
	if paired {
		e.noise = 0 // what draws of a twin differ in is common to both arms
		n := min(len(b), len(c))
		d := make([]float64, n)
		for k := range n {
			d[k] = c[k] - b[k]
		}
		mean, sd := moments(d)
		e.diff, se, df = mean, sd/math.Sqrt(float64(n)), float64(n-1)
	} else {
		meanB, sdB := moments(b)
		meanC, sdC := moments(c)
		nb, nc := float64(len(b)), float64(len(c))
		df = nb + nc - 2
		pooled := ((nb-1)*sdB*sdB + (nc-1)*sdC*sdC) / max(df, 1)
		e.diff, se = meanC-meanB, math.Sqrt(pooled*(1/nb+1/nc))
	}
	if df < 1 {
		return estimate{diff: e.diff, low: math.Inf(-1), high: math.Inf(1), harm: 1, noise: e.noise, known: true}
	}
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: df}
	reach := t.Quantile(boundLevel) * se
	e.low, e.high = e.diff-reach, e.diff+reach
	e.harm = t.CDF((e.diff - math.Log1p(-margin)) / max(se, 1e-9))
	return e
}

// withinRuns are bounds by what single requests vary: a bootstrap of blocks of consecutive requests
// within each run, long enough that requests of different blocks hardly touch (Künsch, Annals of
// Statistics 17(3), 1989). false where the metric is no mean over requests.
func (m metric) withinRuns(base, cand []*load.Report) (low, high float64, ok bool) {
	if m.request == nil {
		return 0, 0, false
	}
	rng := rand.New(rand.NewPCG(1, uint64(len(base)*100+len(cand)))) // fixed: equal reports give equal bounds
	b, c := m.resample(base, rng), m.resample(cand, rng)
	if b == nil || c == nil {
		return 0, 0, false
	}
	diffs := make([]float64, resamples)
	for k := range diffs {
		if diffs[k] = c[k] - b[k]; !m.higher {
			diffs[k] = -diffs[k]
		}
	}
	slices.Sort(diffs)
	at := func(q float64) float64 { return diffs[min(int(q*resamples), resamples-1)] }
	return at(1 - boundLevel), at(boundLevel), true
}

// resample gives the mean over the runs of the logarithm of the metric, again and again.
func (m metric) resample(rs []*load.Report, rng *rand.Rand) []float64 {
	out := make([]float64, resamples)
	for _, r := range rs {
		v := m.requests(r)
		if len(v) < minBlocks {
			return nil
		}
		block := blockLength(r, len(v))
		sums := prefixSums(v)
		for k := range out {
			out[k] += math.Log(max(resampledMean(sums, len(v), block, rng), 1e-9)) / float64(len(rs))
		}
	}
	return out
}

// blockLength is how many requests come within twice the mean time of one.
func blockLength(r *load.Report, n int) int {
	perSecond := float64(n) / max(r.Summary.Seconds, 1e-9)
	return max(1, min(n/minBlocks, int(math.Ceil(2*r.Summary.E2E.Mean*perSecond))))
}

// prefixSums of the values twice over, so that a block may run over the end.
func prefixSums(v []float64) []float64 {
	sums := make([]float64, 2*len(v)+1)
	for i := range 2 * len(v) {
		sums[i+1] = sums[i] + v[i%len(v)]
	}
	return sums
}

func resampledMean(sums []float64, n, block int, rng *rand.Rand) float64 {
	var sum float64
	for left := n; left > 0; left -= block {
		from, take := rng.IntN(n), min(block, left)
		sum += sums[from+take] - sums[from]
	}
	return sum / float64(n)
}

// moments are the mean and the standard deviation (n−1) of values.
func moments(v []float64) (mean, sd float64) {
	for _, x := range v {
		mean += x
	}
	mean /= float64(max(len(v), 1))
	if len(v) < 2 {
		return mean, 0
	}
	for _, x := range v {
		sd += (x - mean) * (x - mean)
	}
	return mean, math.Sqrt(sd / float64(len(v)-1))
}

// mannWhitney is the two-sided p-value of "one side tends to be larger", by the normal approximation
// with ties averaged; 1 when there is nothing to compare (Mann and Whitney, Annals of Mathematical
// Statistics 18(1), 1947).
func mannWhitney(a, b []float64) float64 {
	type value struct {
		v     float64
		first bool
	}
	all := make([]value, 0, len(a)+len(b))
	for _, x := range a {
		all = append(all, value{x, true})
	}
	for _, x := range b {
		all = append(all, value{x, false})
	}
	slices.SortFunc(all, func(x, y value) int { return cmp.Compare(x.v, y.v) })
	var ranks, ties float64
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j].v == all[i].v {
			j++
		}
		size, rank := float64(j-i), float64(i+j+1)/2
		ties += size * (size*size - 1)
		for ; i < j; i++ {
			if all[i].first {
				ranks += rank
			}
		}
	}
	n, na, nb := float64(len(all)), float64(len(a)), float64(len(b))
	variance := na * nb / 12 * (n + 1 - ties/max(n*(n-1), 1))
	if na == 0 || nb == 0 || variance <= 0 {
		return 1
	}
	z := math.Abs(ranks-na*(na+1)/2-na*nb/2) / math.Sqrt(variance)
	return math.Erfc(z / math.Sqrt2)
}
