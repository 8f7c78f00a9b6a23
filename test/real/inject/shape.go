package inject

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
)

// Shape of traffic: Poisson arrivals of prompts that begin with one of some shared prefixes, and
// now and then a long one.
type Shape struct {
	Rate         float64 // requests per second
	Prefixes     int     // different shared beginnings, used in turn
	PrefixTokens int     // words of each
	OwnTokens    int     // words that no other prompt has
	OutputTokens int
	LongEvery    int // each so-manyth prompt is a long one, without prefix; 0: none
	LongTokens   int // words of it
	Seed         uint64
}

// Source yields the shape's requests for a duration. Equal shapes give equal requests.
func (s Shape) Source(d time.Duration) loadtest.Source {
	return &shaped{Shape: s, until: d, rng: rand.New(rand.NewPCG(s.Seed, 0x5a9e))}
}

type shaped struct {
	Shape
	until time.Duration
	rng   *rand.Rand
	at    time.Duration
	n     int
}

// Next implements loadtest.Source.
func (s *shaped) Next() (loadtest.Request, bool) {
	s.at += time.Duration(s.rng.ExpFloat64() / s.Rate * float64(time.Second))
	if s.at >= s.until {
		return loadtest.Request{}, false
	}
	s.n++
	r := loadtest.Request{Offset: s.at, OutputTokens: s.OutputTokens}
	own := fmt.Sprintf("own-%d-%d", s.Seed, s.n)
	switch {
	case s.LongEvery > 0 && s.n%s.LongEvery == 0:
		r.Prompt, r.PromptTokens = text(own, s.LongTokens), s.LongTokens
	case s.Prefixes > 0:
		shared := fmt.Sprintf("shared-%d", s.n%s.Prefixes)
		r.Prompt, r.PromptTokens = text(shared, s.PrefixTokens)+" "+text(own, s.OwnTokens), s.PrefixTokens+s.OwnTokens
	default:
		r.Prompt, r.PromptTokens = text(own, s.OwnTokens), s.OwnTokens
	}
	return r, true
}

// text has n words that its name decides. The tiny model's tokenizer makes one token of each, others a few.
func text(name string, n int) string {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	rng := rand.New(rand.NewPCG(h, 0x7e47))
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteByte("bcdfghklmnprstvz"[rng.IntN(16)])
		b.WriteByte("aeiou"[rng.IntN(5)])
	}
	return b.String()
}
