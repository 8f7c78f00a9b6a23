package analysis

import (
	"fmt"
	"math"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// Thresholds of an engine whose entrance is the limit.
const (
	refusedShare  = 0.01 // of the requests that ended
	roomShare     = 0.8  // of the sequence limit, below which there was room
	outsideShare  = 0.3  // of the open requests, which the scheduler does not know
	leastOutside  = 2.0
	frontCore     = 0.85 // of a core
	rejected      = "requests_rejected"
	frontCPU      = fleet.EngineFrontCPUSeconds
	leastRequests = 20.0
)

// admissionLimited: requests are refused because a queue is full, while the batch has room.
func admissionLimited(in Input, s signals) verdict {
	var refused float64
	told := false
	for _, h := range s.hosts {
		if r := rate(h.windows, rejected); !math.IsNaN(r) {
			told = true
			refused += r * float64(len(h.windows))
		}
	}
	if !told {
		return unknown("no source counts refused requests")
	}
	limit, ok := in.Config.Number("max_num_seqs")
	share := refused / math.Max(1, refused+s.finished)
	if share < refusedShare || refused+s.finished < leastRequests || ok && s.running > roomShare*limit || s.kvUsage >= 0.9 {
		return no
	}
	room := "of an unknown limit"
	if ok {
		room = fmt.Sprintf("of %.0f possible", limit)
	}
	return yes(share/(1-min(share, 0.9)), 0.8,
		fmt.Sprintf("%.0f %% of the requests are refused while %.1f run %s", 100*share, s.running, room),
		fmt.Sprintf("KV use is %.0f %%, %.1f requests wait", 100*s.kvUsage, s.waiting),
	)
}

// apiBound: many requests are open on the wire of which the scheduler does not know, and the process
// that speaks HTTP and tokenizes uses a core whole.
func apiBound(_ Input, s signals) verdict {
	h, known := worst(s.hosts, func(h host) float64 { return h.level(fleet.RequestsOpen) - h.load })
	if !known {
		return unknown("no source tells what is open beside the engine's own count: the wire is not seen")
	}
	open := h.level(fleet.RequestsOpen)
	outside := open - h.load
	front := rate(h.windows, frontCPU)
	switch {
	case outside < leastOutside || outside < outsideShare*open || s.waiting > 0.5:
		return no
	case math.IsNaN(front):
		return unknown("the processor time of the engine's front process is not known")
	case front < frontCore:
		return no
	}
	return yes(outside/math.Max(1, open-outside), 0.7,
		fmt.Sprintf("of %.1f requests open at %s, the scheduler knows %.1f; its front process, which speaks HTTP and tokenizes, uses %.2f cores", open, h.instance, h.load, front))
}

// draftCost is what one drafted token costs, as a share of a step: a tenth for a draft head; for n-grams
// hardly anything, so that their break-even lies lower than said here.
const draftCost = 0.1

// speculationIneffective: a round of speculation brings fewer tokens than its drafts cost. One round
// brings E = 1 + accepted ÷ rounds tokens and costs T_verify + k·T_draft; it pays only if
// E > (T_verify + k·T_draft) ÷ T, and T_verify is no less than a step.
func speculationIneffective(_ Input, s signals) verdict {
	var rounds, drafted, accepted float64
	for _, h := range s.hosts {
		n := float64(len(h.windows))
		rounds += n * orZero(rate(h.windows, "spec_drafts"))
		drafted += n * orZero(rate(h.windows, "spec_draft_tokens"))
		accepted += n * orZero(rate(h.windows, "spec_accepted_tokens"))
	}
	if rounds == 0 {
		if told(s.hosts, "spec_drafts") || !told(s.hosts, "spec_accepted_tokens") && s.generated > 0 && !s.speculates() {
			return no
		}
		return unknown("no source counts accepted draft tokens")
	}
	if rounds < 100 {
		return no
	}
	k, e := drafted/rounds, 1+accepted/rounds
	needed := 1 + draftCost*k
	if e >= needed {
		return no
	}
	return yes(needed/e-1, 0.6,
		fmt.Sprintf("a round of speculation drafts %.1f tokens, of which %.0f %% are accepted: %.2f tokens a round, of which %.2f are needed to pay for the drafts", k, 100*accepted/max(1, drafted), e, needed))
}

// speculates reports whether gauges show that the engine speculates though it counts no rounds.
func (s signals) speculates() bool {
	for _, h := range s.hosts {
		if h.level("spec_accepted_length") > 0 || h.level("spec_acceptance_rate") > 0 {
			return true
		}
	}
	return false
}

func told(all []host, counter string) bool {
	for _, h := range all {
		if !math.IsNaN(rate(h.windows, counter)) {
			return true
		}
	}
	return false
}
