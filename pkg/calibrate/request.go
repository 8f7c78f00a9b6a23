package calibrate

import (
	"time"

	"github.com/optiinfra/performance-agent/pkg/workload"
)

// Request is what one request lived through, on one clock. Times count from the start of the
// observation.
type Request struct {
	Arrival      time.Duration `json:"arrival"`
	PromptTokens int           `json:"prompt_tokens"`
	OutputTokens int           `json:"output_tokens"`
	Group        int           `json:"group,omitempty"` // requests of one group above 0 share their first GroupTokens tokens
	GroupTokens  int           `json:"group_tokens,omitempty"`

	FirstToken time.Duration   `json:"first_token"`
	End        time.Duration   `json:"end"`            // last token
	Gaps       []time.Duration `json:"gaps,omitempty"` // between tokens; empty where only the ends are known
}

// TTFT is the time to the first token.
func (r Request) TTFT() time.Duration { return r.FirstToken - r.Arrival }

// E2E is the time to the last token.
func (r Request) E2E() time.Duration { return r.End - r.Arrival }

// TPOT is the mean time per token after the first; 0 for a single token.
func (r Request) TPOT() time.Duration {
	if r.OutputTokens < 2 {
		return 0
	}
	return (r.End - r.FirstToken) / time.Duration(r.OutputTokens-1)
}

// Trace is the traffic that the requests were.
func Trace(requests []Request) []workload.Request {
	trace := make([]workload.Request, len(requests))
	for i, r := range requests {
		trace[i] = workload.Request{
			Offset: r.Arrival, PromptTokens: r.PromptTokens, OutputTokens: r.OutputTokens,
			Group: r.Group, GroupTokens: r.GroupTokens,
		}
	}
	return trace
}
