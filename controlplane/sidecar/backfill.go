package sidecar

import (
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// backfill sends a new leader the recent windows of agents attached here, in batches, the newest of
// all agents first, since those decide. A nil backfill is an empty one.
type backfill struct {
	agents  []string
	windows map[string][]*fleet.Window // by agent, oldest first
	turn    int
}

func (h *Hub) newBackfill(agents []*agentv1.Hello) *backfill {
	b := &backfill{windows: map[string][]*fleet.Window{}}
	now := time.Now()
	for _, a := range agents {
		var ids []string
		for _, e := range a.GetEngines() {
			ids = append(ids, e.GetInstanceId())
		}
		id := a.GetIdentity().GetAgentId()
		found := h.windows.Windows(ids, now.Add(-h.cfg.Backfill), now.Add(time.Minute))
		slices.SortStableFunc(found, func(x, y *fleet.Window) int { return x.Start.Compare(y.Start) })
		b.agents = append(b.agents, id)
		b.windows[id] = found
	}
	return b
}

// next batch to send, nil when all has been sent. Agents take turns.
func (b *backfill) next() *agentv1.RelayRequest {
	for b != nil && len(b.agents) > 0 {
		b.turn %= len(b.agents)
		agent := b.agents[b.turn]
		rest := b.windows[agent]
		if len(rest) == 0 {
			b.agents = slices.Delete(b.agents, b.turn, b.turn+1)
			continue
		}
		cut := max(0, len(rest)-backfillBatch)
		b.windows[agent] = rest[:cut]
		b.turn++
		batch := &agentv1.WindowBatch{}
		for _, w := range rest[cut:] {
			if pb, err := w.Proto(); err == nil { // it came off the wire, so it goes back on
				batch.Windows = append(batch.Windows, pb)
			}
		}
		return &agentv1.RelayRequest{Message: &agentv1.RelayRequest_Agent{Agent: &agentv1.AgentMessage{
			AgentId: agent,
			Message: &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Windows{Windows: batch}},
		}}}
	}
	return nil
}
