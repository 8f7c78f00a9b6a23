package fsm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// envelopeVersion is the meaning of payloads that this code writes and the newest it understands.
const envelopeVersion = 1

// flagIgnorable lets a server that does not know the command's type skip it.
const flagIgnorable = 1

// MaxEntryBytes is the largest log entry that Encode makes.
const MaxEntryBytes = 512 << 10

// ErrTooLarge is returned by Encode for an entry above MaxEntryBytes.
var ErrTooLarge = errors.New("command is larger than a log entry may be")

// Encode frames a command for the log. requestID makes a retried write happen once; it is empty for
// commands that are safe to repeat. leaderTimeMs and term are those of the proposing leader.
func Encode(typ commandv1.CommandType, payload proto.Message, requestID, actor string, leaderTimeMs int64, term uint64) ([]byte, error) {
	deterministic := proto.MarshalOptions{Deterministic: true}
	body, err := deterministic.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	raw, err := deterministic.Marshal(&commandv1.Envelope{
		Type: typ, Version: envelopeVersion, RequestId: requestID, Actor: actor,
		LeaderTimeMs: leaderTimeMs, Term: term, Payload: body,
	})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	if len(raw) > MaxEntryBytes {
		return nil, fmt.Errorf("%w: %s has %d KiB, the limit is %d KiB", ErrTooLarge, typ, len(raw)>>10, MaxEntryBytes>>10)
	}
	return raw, nil
}

// payloadHash tells a repeated request from another one under the same request id.
func payloadHash(env *commandv1.Envelope) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", env.GetType())
	h.Write(env.GetPayload())
	return hex.EncodeToString(h.Sum(nil))
}
