package loadtest

import (
	"math/rand/v2"
	"strings"
)

// words are short and common, so that a real tokenizer makes about one token of each. The simulated
// engine counts one token a word exactly.
var words = strings.Fields(`the of and to in is you that it he was for on are as with his they at be this have from or one
had by word but not what all were we when your can said there use an each which she do how their if will up other about out
many then them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who oil its now find long down day did get come made may part over new sound take only little
work know place year live me back give most very after thing our just name good sentence man think say great where help
through much before line right too mean old any same tell boy follow came want show also around form three small set put end
does another well large must big even such because turn here why ask went men read need land different home us move try kind
hand picture again change off play spell air away animal house point page letter mother answer found study still learn`)

// sharedTokens sets the seed of what blocks of one ID share apart from that of single requests.
const sharedTokens = 1 << 63

// draw calls emit with n numbers below limit. The blocks come first; what follows is of this number
// alone, so that prefix caches find nothing unless the workload means them to.
func draw(n, limit int, blocks []Block, seed uint64, number int, emit func(int)) {
	n = max(n, 1)
	some := func(tokens int, source rand.Source) {
		rng := rand.New(source)
		for range min(tokens, n) {
			emit(rng.IntN(limit))
			n--
		}
	}
	for _, b := range blocks {
		some(b.Tokens, rand.NewPCG(seed^sharedTokens, b.ID))
	}
	some(n, rand.NewPCG(seed, uint64(number)))
}

// prompt generates n words.
func prompt(n int, blocks []Block, seed uint64, number int) string {
	var b strings.Builder
	b.Grow(max(n, 1) * 6)
	draw(n, len(words), blocks, seed, number, func(word int) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[word])
	})
	return b.String()
}

// promptIDs generates n token ids of a vocabulary.
func promptIDs(n, vocabulary int, blocks []Block, seed uint64, number int) []int {
	ids := make([]int, 0, max(n, 1))
	draw(n, vocabulary, blocks, seed, number, func(id int) { ids = append(ids, id) })
	return ids
}
