package stats

import (
	"cmp"
	"math"
	"slices"
)

// Evidence against a null hypothesis is the logarithm of an e-value: of a number that is never
// negative and whose expectation is at most 1 while the null hypothesis holds. A sequence of them
// that may be looked at whenever one likes is an e-process, and by Ville's inequality the chance that
// it ever reaches 1/α under the null hypothesis is at most α. (Ramdas, Grünwald, Vovk, Shafer,
// Game-Theoretic Statistics and Safe Anytime-Valid Inference, Statistical Science 38(4), 2023.)
type Evidence float64

// Rejects says that the evidence is enough at level alpha.
func (e Evidence) Rejects(alpha float64) bool { return float64(e) >= -math.Log(alpha) }

// EValue is the e-value itself; +Inf where a float64 cannot hold it.
func (e Evidence) EValue() float64 { return math.Exp(float64(e)) }

// PValue is the anytime-valid p-value that the present e-value stands for, 1 at most.
func (e Evidence) PValue() float64 { return min(1, math.Exp(-float64(e))) }

// Merge is the average of e-values: an e-value again, whatever the dependence between them (Vovk and
// Wang, E-values: Calibration, Combination and Applications, Annals of Statistics 49(3), 2021). It is
// evidence against the hypothesis that all the null hypotheses hold. Nothing merges to no evidence.
func Merge(all ...Evidence) Evidence {
	if len(all) == 0 {
		return 0
	}
	logs := make([]float64, len(all))
	for i, e := range all {
		logs[i] = float64(e)
	}
	return Evidence(logSumExp(logs) - math.Log(float64(len(all))))
}

// Holm decides several hypotheses at once: reject[i] says that the one with p-value p[i] is
// rejected. The chance of any false rejection is at most alpha, whatever the dependence between the
// tests (Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
// Statistics 6(2), 1979). adjusted[i] is the smallest alpha that would reject it. A p-value that is no
// number is never rejected.
func Holm(p []float64, alpha float64) (reject []bool, adjusted []float64) {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(orOne(p[a]), orOne(p[b])) })
	reject, adjusted = make([]bool, len(p)), make([]float64, len(p))
	var floor float64
	for rank, i := range order {
		floor = max(floor, min(1, float64(len(p)-rank)*orOne(p[i])))
		adjusted[i] = floor
		reject[i] = floor <= alpha
	}
	return reject, adjusted
}

func orOne(p float64) float64 {
	if p >= 0 && p <= 1 {
		return p
	}
	return 1
}
