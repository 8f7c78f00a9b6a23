package sim

import (
	"math"
	"strings"
)

// vocabularySize of the simulated model's token numbers.
const vocabularySize = 32000

// TokenID is a token's number.
func TokenID(word string) int {
	h := uint64(fnvOffset)
	for i := range len(word) {
		h = (h ^ uint64(word[i])) * fnvPrime
	}
	return int(h>>20) % vocabularySize
}

// TokenIDs are the numbers of a text's tokens.
func TokenIDs(text string) []int {
	words := strings.Fields(text)
	ids := make([]int, len(words))
	for i, w := range words {
		ids[i] = TokenID(w)
	}
	return ids
}

// IDs of a prompt, however it was given.
func IDs(parts []string, tokens []int) []int {
	if tokens != nil {
		return tokens
	}
	return TokenIDs(strings.Join(parts, " "))
}

// Logprobs of a sequence of tokens as the simulated model holds them, of all but the first: a number
// below 0 that depends on the token and on all before it. drift moves each by as much as it says, at
// most, up or down.
func Logprobs(ids []int, drift float64) []float64 {
	if len(ids) == 0 {
		return nil
	}
	out := make([]float64, 0, len(ids)-1)
	h := uint64(fnvOffset)
	for k, id := range ids {
		h = (h ^ uint64(id)) * fnvPrime
		if k == 0 {
			continue
		}
		u, v := unit(h), unit(h^0x5bd1e995)
		out = append(out, min(-.02-2.5*u*u+drift*(2*v-1), -1e-4))
	}
	return out
}

// unit spreads a hash over [0, 1).
func unit(h uint64) float64 {
	h = (h ^ h>>31) * 0xbf58476d1ce4e5b9
	h ^= h >> 29
	return float64(h>>11) / (1 << 53)
}

// Drift is how far answers of a model move in these number formats of cache and weights: the share of
// answers that become others, and the bound on what log-probabilities move by. Real models differ;
// these follow the order in which formats lose precision, so that a judgement has something to find.
func Drift(kv, weights string) float64 {
	drift := 0.
	switch kv = strings.ToLower(kv); {
	case strings.Contains(kv, "e5m2"):
		drift += .4
	case strings.Contains(kv, "int4"), strings.Contains(kv, "fp4"):
		drift += .5
	case strings.Contains(kv, "fp8"), strings.Contains(kv, "int8"):
		drift += .02
	}
	switch weights = strings.ToLower(weights); {
	case weights == "" || weights == "none":
	case strings.Contains(weights, "fp8"), strings.Contains(weights, "eetq"), strings.Contains(weights, "int8"), weights == "bitsandbytes":
		drift += .02
	default:
		drift += .05
	}
	return math.Min(drift, 1)
}

// strays says from which token on an answer is another than without drift; false when it is the same.
func (p Prompt) strays() (from int, ok bool) {
	if p.Drift == 0 || unit(p.Hash^0x51ab) >= p.Drift {
		return 0, false
	}
	return int(p.Hash>>7) % 3, true
}
