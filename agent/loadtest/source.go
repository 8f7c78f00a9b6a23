// Package loadtest drives load at serving engines and measures it as their users would: open loop,
// so that a slow answer delays no later request, and every latency also from the moment at which
// the request was due, so that a late client hides nothing (no coordinated omission). It stands in
// for a Kubernetes Service, too: it spreads requests over the targets that call themselves ready.
//
// It sends again only what never left (no connection could be made), decides nothing, and knows
// engines only by their request formats. Traffic comes from a Source; what the figures mean for a
// configuration is others' business.
package loadtest

import (
	"math/rand/v2"
	"time"

	"github.com/optiinfra/performance-agent/pkg/workload"
)

// Request is one request of a workload.
type Request struct {
	Offset time.Duration // when it is due, from the start of the run
	// Prompt is generated with about PromptTokens tokens when empty, beginning with Prefix.
	Prompt       string
	PromptTokens int
	OutputTokens int
	Prefix       []Block
}

// Block is a part of a prompt that other requests may have, too: blocks of equal ID and length hold
// the same tokens.
type Block struct {
	ID     uint64
	Tokens int
}

// Source yields requests in the order of their offsets; ok is false when there are no more. It must
// not depend on how earlier requests fare. It is called from one goroutine.
type Source interface {
	Next() (r Request, ok bool)
}

// Of makes a request of one of a trace.
func Of(w workload.Request) Request {
	q := Request{Offset: w.Offset, PromptTokens: w.PromptTokens, OutputTokens: w.OutputTokens}
	if w.Group > 0 {
		q.Prefix = []Block{{ID: uint64(w.Group), Tokens: w.GroupTokens}}
		return q
	}
	for _, id := range w.Prefix {
		q.Prefix = append(q.Prefix, Block{ID: id, Tokens: w.PrefixBlock})
	}
	return q
}

// Replay yields a trace.
type Replay struct {
	trace []workload.Request
	next  int
}

// NewReplay returns a source of the requests in their order.
func NewReplay(trace []workload.Request) *Replay { return &Replay{trace: trace} }

// Next implements Source.
func (r *Replay) Next() (Request, bool) {
	if r.next >= len(r.trace) {
		return Request{}, false
	}
	r.next++
	return Of(r.trace[r.next-1]), true
}

// Poisson is endless traffic with independent arrivals and fixed lengths.
type Poisson struct {
	rng            *rand.Rand
	perSecond      float64
	prompt, output int
	at             time.Duration
}

// NewPoisson returns the same arrivals for the same seed. perSecond must be positive.
func NewPoisson(perSecond float64, promptTokens, outputTokens int, seed uint64) *Poisson {
	return &Poisson{rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), perSecond: perSecond, prompt: promptTokens, output: outputTokens}
}

// Next implements Source.
func (p *Poisson) Next() (Request, bool) {
	p.at += time.Duration(p.rng.ExpFloat64() / p.perSecond * float64(time.Second))
	return Request{Offset: p.at, PromptTokens: p.prompt, OutputTokens: p.output}, true
}
