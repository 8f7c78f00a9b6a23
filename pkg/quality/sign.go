package quality

import "math"

// signTest is an e-process on differences between −1 and 1 whose mean is compared with −margin: it
// bets on "the loss is smaller" (+1) or "the loss is larger" (−1). As long as the opposite holds, its
// evidence exceeds 1/α with chance α at most, however often one looks (Ville; Waudby-Smith and Ramdas,
// Estimating Means of Bounded Random Variables by Betting, JRSS B 86(1), 2024). Several stakes are
// averaged, since the best one is not known in advance.
type signTest struct {
	margin, direction float64
	stakes            []float64
	logs              []float64
}

const stakes = 9

func newSignTest(margin float64, direction float64) *signTest {
	t := &signTest{margin: margin, direction: direction, logs: make([]float64, stakes)}
	worst := 1 - margin // the largest step against a bet on a smaller loss
	if direction < 0 {
		worst = 1 + margin
	}
	for k := range stakes {
		t.stakes = append(t.stakes, float64(k+1)/(stakes+1)/worst)
	}
	return t
}

// add takes a difference in and returns the logarithm of the evidence.
func (t *signTest) add(d float64) float64 {
	largest := math.Inf(-1)
	for k, s := range t.stakes {
		t.logs[k] += math.Log1p(s * t.direction * (d + t.margin))
		largest = max(largest, t.logs[k])
	}
	var sum float64
	for _, l := range t.logs {
		sum += math.Exp(l - largest)
	}
	return largest + math.Log(sum/stakes)
}
