package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2/sse"
)

// Event is one line of the fleet's history.
type Event struct {
	Index  uint64    `json:"index"`
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Group  string    `json:"group,omitempty"`
	Object string    `json:"object,omitempty"`
	Text   string    `json:"text"`
}

// Compacted tells a reader that events after its index are gone: list the objects again.
type Compacted struct {
	Oldest uint64 `json:"oldest" doc:"oldest index that is still kept"`
	Hint   string `json:"hint"`
}

type eventsInput struct {
	LastEventID string `header:"Last-Event-ID" doc:"log index of the last event seen"`
	Since       uint64 `query:"since" doc:"the same, for clients that cannot set headers"`
	Group       string `query:"group"`
}

// keepAlive is how often an idle stream carries a comment.
const keepAlive = 15 * time.Second

func (s *Server) eventRoutes() {
	o := op(http.MethodGet, "/events", "events", "Stream of events from any node (server-sent events); resume with Last-Event-ID", "admin")
	sse.Register(s.api, o, map[string]any{"event": Event{}, "compacted": Compacted{}}, s.streamEvents)
}

func (s *Server) streamEvents(ctx context.Context, in *eventsInput, send sse.Sender) {
	since := in.Since
	if n, err := strconv.ParseUint(in.LastEventID, 10, 64); err == nil {
		since = n
	}
	for {
		changed := s.machine.Watch()
		if oldest := s.machine.EventsCompacted(); since > 0 && since < oldest {
			_ = send(sse.Message{ID: int(oldest), Data: Compacted{Oldest: oldest, Hint: "events before this index are gone; read the objects again and resume from it"}})
			return
		}
		events := s.machine.Events(since, 256)
		for _, e := range events {
			since = e.GetIndex()
			if in.Group != "" && e.GetGroup() != in.Group {
				continue
			}
			ev := Event{Index: e.GetIndex(), At: at(e.GetAtMs()), Kind: e.GetKind(), Group: e.GetGroup(), Object: e.GetObject(), Text: e.GetText()}
			if send(sse.Message{ID: int(since), Data: ev}) != nil {
				return
			}
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(keepAlive):
			if send.Comment("keep-alive") != nil {
				return
			}
		}
	}
}
