package fsm

import (
	"fmt"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// maxEvents is how much history is kept; a watcher that is further behind must list again.
const maxEvents = 4096

// A dedupe row is dropped once it is this old by leader time or by log index.
const (
	dedupeKeepMs      = 24 * 60 * 60 * 1000
	dedupeKeepEntries = 65536
)

// event adds one line to the fleet's history, published when the command is committed.
func (t *tx) event(kind, group, object, format string, args ...any) {
	t.pending = append(t.pending, &commandv1.Event{
		Index: t.entry, AtMs: t.now, Kind: kind, Group: group, Object: object, Text: fmt.Sprintf(format, args...),
	})
}

func (s *state) publish(events []*commandv1.Event) {
	s.events = append(s.events, events...)
	if over := len(s.events) - maxEvents; over > 0 {
		s.events = append([]*commandv1.Event(nil), s.events[over:]...)
	}
}

// answered finds the answer given to an earlier entry with the same request id.
func (s *state) answered(env *commandv1.Envelope) (Result, bool) {
	row, ok := s.dedupe.get(env.GetRequestId())
	if env.GetRequestId() == "" || !ok {
		return Result{}, false
	}
	if row.GetPayloadHash() != payloadHash(env) {
		return Result{Index: s.index, Refusal: refuse(Conflict,
			"request id %q was used before for another request; use a new one", env.GetRequestId())}, true
	}
	answer := Result{Index: row.GetIndex(), ObjectID: row.GetObjectId()}
	if row.GetErrorCode() != "" {
		answer.Refusal = &Refusal{Code: Code(row.GetErrorCode()), Message: row.GetError()}
	}
	return answer, true
}

// remember the answer, so that the same request is not carried out twice. A decision of a deposed
// leader is forgotten: the next leader may take it again.
func (t *tx) remember(env *commandv1.Envelope, r Result) {
	if env.GetRequestId() == "" || r.Refusal != nil && r.Refusal.Code == StaleTerm {
		return
	}
	row := &commandv1.DedupeRow{
		RequestId: env.GetRequestId(), PayloadHash: payloadHash(env),
		Index: r.Index, AtMs: t.now, ObjectId: r.ObjectID,
	}
	if r.Refusal != nil {
		row.ErrorCode, row.Error = string(r.Refusal.Code), r.Refusal.Message
	}
	t.dedupe.put(row.GetRequestId(), row)
	t.dedupe.commit()
	t.requests = append(t.requests, row.GetRequestId())
}

func (s *state) expireDedupe() {
	for len(s.requests) > 0 {
		row, ok := s.dedupe.get(s.requests[0])
		if ok && s.clock-row.GetAtMs() <= dedupeKeepMs && s.index-row.GetIndex() <= dedupeKeepEntries {
			break
		}
		s.dedupe.remove(s.requests[0])
		s.requests = s.requests[1:]
	}
	s.dedupe.commit()
}
