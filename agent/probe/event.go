package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The kernel's events, laid out as in bpf/state.h.
const (
	eventRequest = iota + 1
	eventRequestEnd
	eventResponse
	eventClose

	headBytes       = 24
	requestBytes    = 224
	requestEndBytes = 32
	responseBytes   = 184
	lineBytes       = 128
	maxGaps         = 30
)

// Flags of a message.
const (
	flagStream    = 1 << 3
	flagError     = 1 << 4
	flagDone      = 1 << 5
	flagSynthetic = 1 << 6
)

// How a connection with open requests ended; the lowest bit is the direction, 1 being the server's.
const (
	closedByFIN = iota * 2
	closedByReset
	closedByLoss
	closedByReuse
	closedByUpgrade
)

// errEvent is returned for bytes that the kernel part of this package does not write.
var errEvent = errors.New("not an event of the observer")

// event is any of the kernel's events. Times are nanoseconds of the monotonic clock.
type event struct {
	kind   uint8
	how    uint8 // closedBy… plus the direction
	number uint32
	conn   uint64
	at     uint64 // the message's first byte; of a request's end and a close: when it happened

	end            uint64 // of the request; 0 while its body is still coming
	bytes          uint64 // of the body
	flags          uint32
	client, server netip.AddrPort
	line           []byte // of the request, at most lineBytes; valid until the next event is read

	firstChunk, last uint64
	chunks, parts    uint32
	status           uint16
	over             bool
	gaps             []byte // little-endian words in units of 1,024 ns; as line
}

var le = binary.LittleEndian

// decode reads one event into e, which it overwrites.
func decode(raw []byte, e *event) error {
	if len(raw) < headBytes {
		return fmt.Errorf("%w: %d bytes", errEvent, len(raw))
	}
	*e = event{kind: raw[0], how: raw[1], number: le.Uint32(raw[4:]), conn: le.Uint64(raw[8:]), at: le.Uint64(raw[16:])}
	switch {
	case e.kind == eventRequest && len(raw) == requestBytes:
		return e.request(raw)
	case e.kind == eventRequestEnd && len(raw) == requestEndBytes:
		e.bytes = le.Uint64(raw[24:])
	case e.kind == eventResponse && len(raw) == responseBytes:
		return e.response(raw)
	case e.kind == eventClose && len(raw) == headBytes:
		if e.how > closedByUpgrade+1 {
			return fmt.Errorf("%w: closed in way %d", errEvent, e.how)
		}
	default:
		return fmt.Errorf("%w: kind %d with %d bytes", errEvent, e.kind, len(raw))
	}
	return nil
}

func (e *event) request(raw []byte) error {
	e.end, e.bytes = le.Uint64(raw[24:]), le.Uint64(raw[32:])
	e.client = netip.AddrPortFrom(address(raw[40:56]), le.Uint16(raw[72:]))
	e.server = netip.AddrPortFrom(address(raw[56:72]), le.Uint16(raw[74:]))
	e.flags = le.Uint32(raw[88:])
	n := le.Uint32(raw[92:])
	if n > lineBytes {
		return fmt.Errorf("%w: a line of %d bytes", errEvent, n)
	}
	e.line = raw[96 : 96+n]
	return nil
}

func (e *event) response(raw []byte) error {
	e.firstChunk, e.last, e.bytes = le.Uint64(raw[24:]), le.Uint64(raw[32:]), le.Uint64(raw[40:])
	e.chunks, e.status, e.over = le.Uint32(raw[48:]), le.Uint16(raw[52:]), raw[54] != 0
	n := int(raw[55])
	if n > maxGaps {
		return fmt.Errorf("%w: %d gaps", errEvent, n)
	}
	e.flags, e.parts = le.Uint32(raw[56:]), le.Uint32(raw[60:])
	e.gaps = raw[64 : 64+4*n]
	return nil
}

// address takes the mapping off IPv4.
func address(raw []byte) netip.Addr {
	return netip.AddrFrom16([16]byte(raw)).Unmap()
}
