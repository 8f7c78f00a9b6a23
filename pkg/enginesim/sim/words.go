package sim

import (
	"math"

	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
)

// Prompt is what the model needs to know of a prompt. A simulated token is a word: a run of bytes
// without white space.
type Prompt struct {
	Tokens int
	Hashes []uint64 // one per full block of tokens, each covering the text up to its end
	Hash   uint64   // of the whole
	// Drift is the share of prompts that get another answer than without it.
	Drift float64
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// ReadPrompt counts the words of the parts, one after the other, and hashes every full block.
func ReadPrompt(block int, parts ...string) Prompt {
	p := Prompt{Hash: fnvOffset}
	for _, text := range parts {
		inWord := false
		for i := 0; i < len(text); i++ {
			c := text[i]
			if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
				if inWord {
					p.endToken(block)
				}
				inWord = false
				continue
			}
			inWord = true
			p.Hash = (p.Hash ^ uint64(c)) * fnvPrime
		}
		if inWord {
			p.endToken(block)
		}
	}
	return p
}

// ReadTokens does the same for a prompt of token numbers.
func ReadTokens(block int, tokens []int) Prompt {
	p := Prompt{Hash: fnvOffset}
	for _, t := range tokens {
		p.Hash = (p.Hash ^ uint64(t)) * fnvPrime
		p.endToken(block)
	}
	return p
}

func (p *Prompt) endToken(block int) {
	p.Hash = (p.Hash ^ ' ') * fnvPrime
	p.Tokens++
	if block > 0 && p.Tokens%block == 0 {
		p.Hashes = append(p.Hashes, p.Hash)
	}
}

// NaturalLength is after how many tokens the simulated model ends its answer to a prompt when the
// client lets it: a log-normal draw with median 160 that depends on the prompt alone.
func (p Prompt) NaturalLength() int {
	// Sum of uniform parts of the hash: close enough to a normal variable, and repeatable.
	h, sum := p.Hash*0x9e3779b97f4a7c15, 0.0
	for range 4 {
		sum += float64(h&0xffff) / 0x10000
		h >>= 16
	}
	return max(1, int(160*math.Exp((sum-2)*1.3)))
}

var vocabulary = []string{
	" model", " token", " batch", " queue", " cache", " step", " engine", " layer",
	" weight", " memory", " stream", " prompt", " answer", " block", " prefix", " server",
	" the", " a", " of", " and", " to", " in", " is", " with",
	" long", " short", " first", " last", " more", " less", " each", " same",
}

// Word is the text of the n-th token (from 0) of an answer. Each begins with a space, so that the
// words of an answer are its tokens.
func (p Prompt) Word(n int, out live.Output) string {
	switch out {
	case live.NaN:
		return "!"
	case live.Empty:
		return ""
	}
	hash := p.Hash
	if from, strays := p.strays(); strays && n >= from {
		hash = ^hash
	}
	x := (hash + uint64(n)*0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	return vocabulary[x>>59]
}
