package quality

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Right reports whether an answer contains what is expected as a word or number of its own, whatever
// its case: "17" is not in "170".
func Right(answer, expect string) bool {
	a, e := strings.ToLower(answer), strings.ToLower(strings.TrimSpace(expect))
	for from := 0; e != ""; {
		k := strings.Index(a[from:], e)
		if k < 0 {
			return false
		}
		begin, end := from+k, from+k+len(e)
		before, _ := utf8.DecodeLastRuneInString(a[:begin])
		after, _ := utf8.DecodeRuneInString(a[end:])
		if !wordRune(before) && !wordRune(after) {
			return true
		}
		from = begin + 1
	}
	return false
}

func wordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// refusals are phrases with which models decline.
var refusals = []string{"i cannot", "i can't", "i can not", "i'm sorry", "i am sorry", "as an ai", "i'm unable", "i am unable", "i'm not able to"}

// refuses reports whether an answer declines the task.
func refuses(answer string) bool {
	a := strings.ToLower(answer)
	for _, r := range refusals {
		if strings.Contains(a, r) {
			return true
		}
	}
	return false
}

// A phrase of so many words that occurs so often makes an answer repetitive.
const phraseWords, phraseTimes = 3, 4

func repetitive(answer string) bool {
	words := strings.Fields(strings.ToLower(answer))
	seen := map[string]int{}
	for i := 0; i+phraseWords <= len(words); i++ {
		p := strings.Join(words[i:i+phraseWords], " ")
		if seen[p]++; seen[p] >= phraseTimes {
			return true
		}
	}
	return false
}

// divergence is the share of a text before another one differs from it.
func divergence(a, b string) float64 {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return float64(n) / float64(max(len(a), 1))
}
