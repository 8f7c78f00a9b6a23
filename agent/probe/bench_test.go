package probe

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
)

const testPort = 8000

// needs skips, or with PERF_REQUIRE_BPF fails, where err says that nothing can be observed here.
func needs(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrUnavailable) && os.Getenv("PERF_REQUIRE_BPF") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// step is a TCP segment of a conversation.
type step struct {
	server bool // it sends
	data   string
	flags  byte
	at     uint32 // offset in its sender's stream; set by lay
}

const (
	tcpFIN = 1
	tcpSYN = 2
	tcpRST = 4
	tcpACK = 16
)

func client(data string) step { return step{data: data, flags: tcpACK} }
func server(data string) step { return step{data: data, flags: tcpACK, server: true} }

var (
	clientFIN = step{flags: tcpFIN | tcpACK}
	serverFIN = step{flags: tcpFIN | tcpACK, server: true}
	clientRST = step{flags: tcpRST}
	serverRST = step{flags: tcpRST, server: true}
	handshake = []step{{flags: tcpSYN}, {flags: tcpSYN | tcpACK, server: true}}
)

// lay gives each step its place in the stream, in the order of the slice.
func lay(steps []step) []step {
	var next [2]uint32
	out := make([]step, len(steps))
	for i, s := range steps {
		d := 0
		if s.server {
			d = 1
		}
		s.at = next[d]
		next[d] += uint32(len(s.data))
		if s.flags&(tcpSYN|tcpFIN) != 0 {
			next[d]++
		}
		out[i] = s
	}
	return out
}

// path is how packets reach the parser.
type path struct {
	name           string
	mode           Mode
	client, server netip.Addr
}

var paths = []path{
	{"packet/4", ModePacket, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")},
	{"packet/6", ModePacket, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")},
	{"cgroup/4", ModeCgroup, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")},
	{"cgroup/6", ModeCgroup, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")},
}

// isn are the initial sequence numbers of client and server; the second wraps.
var isn = [2]uint32{1000, 0xfffffff0}

// frame is an Ethernet frame with one segment.
func (p path) frame(s step, clientPort uint16) []byte {
	tcp := make([]byte, 20, 20+len(s.data))
	from, to, sender := p.client, p.server, 0
	ports := [2]uint16{clientPort, testPort}
	if s.server {
		from, to, sender = to, from, 1
		ports[0], ports[1] = ports[1], ports[0]
	}
	binary.BigEndian.PutUint16(tcp, ports[0])
	binary.BigEndian.PutUint16(tcp[2:], ports[1])
	binary.BigEndian.PutUint32(tcp[4:], isn[sender]+s.at)
	tcp[12], tcp[13] = 5<<4, s.flags
	tcp = append(tcp, s.data...)
	if from.Is4() {
		ip := make([]byte, 34, 34+len(tcp))
		ip[12], ip[14], ip[23] = 8, 0x45, 6
		binary.BigEndian.PutUint16(ip[16:], uint16(20+len(tcp)))
		copy(ip[26:], from.AsSlice())
		copy(ip[30:], to.AsSlice())
		return append(ip, tcp...)
	}
	ip := make([]byte, 54, 54+len(tcp))
	ip[12], ip[13], ip[14], ip[20] = 0x86, 0xdd, 0x60, 6
	binary.BigEndian.PutUint16(ip[18:], uint16(len(tcp)))
	copy(ip[22:], from.AsSlice())
	copy(ip[38:], to.AsSlice())
	return append(ip, tcp...)
}

// bench runs conversations through the programs in the kernel, without any interface.
type bench struct {
	*Observer
	path
	endpoint Endpoint
	port     uint16 // of the last client
}

func newBench(t testing.TB, p path, change ...func(*Config)) *bench {
	t.Helper()
	cfg := DefaultConfig(Endpoint{Port: testPort})
	for _, c := range change {
		c(&cfg)
	}
	mode, err := Check(p.mode)
	needs(t, err)
	b := &bench{Observer: newObserver(cfg, mode, slog.New(slog.DiscardHandler)), path: p, endpoint: cfg.Endpoints[0], port: 40000}
	if err := b.load(); err != nil {
		needs(t, refused("load programs", err))
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// span of the kernel's time in which a step was observed.
type span struct{ from, to uint64 }

// send runs one segment through the program that would see it.
func (b *bench) send(t testing.TB, s step, clientPort uint16) span {
	t.Helper()
	program := b.kernel.Packet
	if b.path.mode == ModeCgroup {
		if program = b.kernel.Ingress; s.server {
			program = b.kernel.Egress
		}
	}
	w := span{from: kernelNow()}
	if _, err := program.Run(&ebpf.RunOptions{Data: b.frame(s, clientPort)}); err != nil {
		t.Fatal(err)
	}
	w.to = kernelNow()
	return w
}

// drain reads all events and takes what the endpoint did. Times stay the kernel's.
func (b *bench) drain(t testing.TB) Second {
	t.Helper()
	if _, err := b.take(); err != nil {
		t.Fatal(err)
	}
	return b.Drain(b.endpoint)
}

func (b *bench) counts(t testing.TB) Counts {
	t.Helper()
	c, err := b.Counts(testPort)
	if err != nil {
		t.Fatal(err)
	}
	if c.Malformed != 0 || c.Dropped != 0 || c.Contended != 0 {
		t.Errorf("malformed %d, dropped %d, contended %d", c.Malformed, c.Dropped, c.Contended)
	}
	return c
}

// forget counts from nothing.
func (b *bench) forget(t testing.TB) {
	t.Helper()
	if err := b.kernel.Counters.Set([maxPorts + 1]portCounts{}); err != nil {
		t.Fatal(err)
	}
	b.requests = newAssembler(b.cfg.Endpoints, 2*b.cfg.MaxConnections, b.cfg.SilenceLimit)
}

func (b *bench) nextPort() uint16 {
	b.port++
	return b.port
}
