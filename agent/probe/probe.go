package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Endpoint is where an engine listens.
type Endpoint struct {
	// Addr is only needed where several engines have one port; the zero value is any address.
	Addr netip.Addr
	Port uint16
}

// Config of an observer.
type Config struct {
	Mode      Mode
	Endpoints []Endpoint
	// Interfaces to observe in packet mode; none: all that are up.
	Interfaces []string
	// Cgroup is the folder of the control group to observe in cgroup mode; empty: the root.
	Cgroup string
	// MaxConnections bounds the connections that are kept; the longest unused makes room for a new
	// one. Each takes 0.8 KiB of kernel memory.
	MaxConnections int
	// BufferBytes of events that may wait for this process; a power of two.
	BufferBytes int
	// Poll is how often events are read when few come.
	Poll time.Duration
	// SilenceLimit ends requests of a connection on which nothing was seen for so long.
	SilenceLimit time.Duration
}

// DefaultConfig observes these endpoints as the rights allow.
func DefaultConfig(endpoints ...Endpoint) Config {
	return Config{
		Mode: ModeAuto, Endpoints: endpoints, MaxConnections: 8192, BufferBytes: 1 << 20,
		Poll: 20 * time.Millisecond, SilenceLimit: 15 * time.Minute,
	}
}

// Limits of a configuration.
const (
	maxPorts = 63 // port slots of the kernel part, less the one for "not observed"
	// lruSlack is kept free per CPU: the kernel's lists reserve as many entries for each.
	lruSlack = 128
	// breath between two looks at the events while many come: since the last look more than the
	// manyth part of the buffer.
	breath        = 2 * time.Millisecond
	many          = 128
	interfaceScan = 10 * time.Second
	sweepEvery    = time.Second
)

// Observer is a running probe.
type Observer struct {
	cfg    Config
	mode   Mode
	log    *slog.Logger
	kernel observerObjects
	events *ringbuf.Reader
	nets   *interfaces // packet mode
	close  closers

	record ringbuf.Record // of the one goroutine that reads

	mu       sync.Mutex // guards what follows
	requests *assembler
	broken   uint64 // events that could not be decoded
	evicted  uint64
	heard    time.Time // when events were last looked for
}

// Open loads the programs and attaches them. Observing begins at once, reading with Run. Errors that
// say that it is not possible here are ErrUnavailable.
func Open(cfg Config, log *slog.Logger) (*Observer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	mode, err := Check(cfg.Mode)
	if err != nil {
		return nil, err
	}
	o := newObserver(cfg, mode, log)
	if err := o.load(); err != nil {
		return nil, refused("load programs", err)
	}
	if err := o.attach(); err != nil {
		_ = o.Close()
		return nil, refused("attach", err)
	}
	o.sweep() // sets the clock
	return o, nil
}

func newObserver(cfg Config, mode Mode, log *slog.Logger) *Observer {
	return &Observer{cfg: cfg, mode: mode, log: log, requests: newAssembler(cfg.Endpoints, 2*cfg.MaxConnections, cfg.SilenceLimit)}
}

func (c Config) check() error {
	ports := map[uint16]bool{}
	for _, e := range c.Endpoints {
		ports[e.Port] = true
	}
	switch {
	case c.Mode == ModeOff:
		return fmt.Errorf("%w: switched off", ErrUnavailable)
	case len(ports) == 0 || ports[0]:
		return errors.New("an observer needs the ports of engines")
	case len(ports) > maxPorts:
		return fmt.Errorf("%d ports are more than the %d that one observer can watch", len(ports), maxPorts)
	case c.MaxConnections < 16 || c.Poll <= 0 || c.SilenceLimit <= 0:
		return errors.New("an observer needs room for 16 connections, a poll interval and a silence limit")
	case c.BufferBytes < os.Getpagesize() || c.BufferBytes&(c.BufferBytes-1) != 0:
		return fmt.Errorf("a buffer of %d bytes is not a power of two of at least a page", c.BufferBytes)
	}
	return nil
}

// load puts the programs of the mode into the kernel.
func (o *Observer) load() error {
	spec, err := loadObserver()
	if err != nil {
		return err
	}
	var slots [1 << 16]uint8
	for i, p := range o.slots() {
		slots[p] = uint8(i + 1)
	}
	for name, value := range map[string]any{
		"port_slot": slots, "bound": uint32(o.cfg.MaxConnections), "wake_bytes": uint64(o.cfg.BufferBytes / 4),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	spec.Maps["conns"].MaxEntries = uint32(o.cfg.MaxConnections + lruSlack*runtime.NumCPU())
	spec.Maps["events"].MaxEntries = uint32(o.cfg.BufferBytes)
	return o.loadMode(spec)
}

// loadMode leaves out the programs that this process may not load.
func (o *Observer) loadMode(spec *ebpf.CollectionSpec) error {
	var packet struct {
		Packet *ebpf.Program `ebpf:"packet"`
		Census *ebpf.Program `ebpf:"census"`
		observerMaps
		observerVariables
	}
	var group struct {
		Ingress *ebpf.Program `ebpf:"ingress"`
		Egress  *ebpf.Program `ebpf:"egress"`
		Census  *ebpf.Program `ebpf:"census"`
		observerMaps
		observerVariables
	}
	var err error
	if o.mode == ModePacket {
		err = spec.LoadAndAssign(&packet, nil)
		o.kernel = observerObjects{observerPrograms{Packet: packet.Packet, Census: packet.Census}, packet.observerMaps, packet.observerVariables}
	} else {
		err = spec.LoadAndAssign(&group, nil)
		o.kernel = observerObjects{observerPrograms{Ingress: group.Ingress, Egress: group.Egress, Census: group.Census}, group.observerMaps, group.observerVariables}
	}
	if err != nil {
		return err
	}
	o.close = append(o.close, &o.kernel)
	o.events, err = ringbuf.NewReader(o.kernel.Events)
	if err != nil {
		_ = o.kernel.Close()
		return fmt.Errorf("open events: %w", err)
	}
	o.close = append(o.close, o.events)
	return nil
}

// slots lists the ports in the order of their slots.
func (o *Observer) slots() (ports []uint16) {
	seen := map[uint16]bool{}
	for _, e := range o.cfg.Endpoints {
		if !seen[e.Port] {
			seen[e.Port] = true
			ports = append(ports, e.Port)
		}
	}
	return ports
}

func (o *Observer) attach() error {
	if o.mode == ModePacket {
		o.nets = newInterfaces(o.kernel.Packet, o.cfg.Interfaces)
		o.close = append(o.close, o.nets)
		return o.nets.scan()
	}
	path := o.cfg.Cgroup
	if path == "" {
		root, err := cgroupRoot()
		if err != nil {
			return err
		}
		path = root
	}
	links, err := attachCgroup(path, o.kernel.Ingress, o.kernel.Egress)
	if err == nil {
		o.close = append(o.close, links)
	}
	return err
}

// Mode that was chosen.
func (o *Observer) Mode() Mode { return o.mode }

// Close detaches and unloads. Run must have returned.
func (o *Observer) Close() error { return o.close.Close() }

// Run reads events until ctx ends. Between looks it sleeps and does not wait in the kernel for the next
// event: the runtime watches a thread that waits there, at first fifty thousand times a second, and that
// costs more than all looks do.
func (o *Observer) Run(ctx context.Context) error {
	var scanned time.Time
	for swept := time.Now(); ctx.Err() == nil; {
		taken, err := o.take()
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		now := time.Now()
		if now.Sub(swept) >= sweepEvery {
			o.sweep()
			swept = now
		}
		if o.nets != nil && now.Sub(scanned) >= interfaceScan {
			if err := o.nets.scan(); err != nil {
				o.log.Warn("an interface cannot be observed", "error", err)
			}
			scanned = now
		}
		time.Sleep(o.pause(taken))
	}
	return nil
}

// pause until the next look, by the bytes of events that the last one found.
func (o *Observer) pause(taken int) time.Duration {
	if taken > o.cfg.BufferBytes/many {
		return min(breath, o.cfg.Poll)
	}
	return o.cfg.Poll
}

// take the events that are there, at most a buffer full.
func (o *Observer) take() (bytes int, err error) {
	o.events.SetDeadline(time.Unix(1, 0)) // long over: nothing is waited for
	var e event
	for bytes < o.cfg.BufferBytes {
		err := o.events.ReadInto(&o.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return bytes, err
		}
		bytes += len(o.record.RawSample)
		o.mu.Lock()
		if decode(o.record.RawSample, &e) != nil {
			o.broken++
		} else {
			o.requests.add(&e)
		}
		o.mu.Unlock()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heard = time.Now()
	return bytes, nil
}

// kernelNow is the clock of events.
func kernelNow() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // Linux has this clock
	}
	return uint64(t.Nano())
}

// sweep ends what has been silent for too long, and follows the wall clock.
func (o *Observer) sweep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := kernelNow()
	o.requests.offset = time.Now().UnixNano() - int64(now)
	o.requests.sweep(now)
	o.census()
}

// census counts connections anew once there may have been more than fit. o.mu is held.
func (o *Observer) census() {
	var live int64
	if err := o.kernel.Live.Get(&live); err != nil || live <= int64(o.cfg.MaxConnections) {
		return
	}
	packet := make([]byte, 64) // the program does not look at it
	if _, err := o.kernel.Census.Run(&ebpf.RunOptions{Data: packet}); err != nil {
		o.log.Warn("connections cannot be counted", "error", err)
		return
	}
	var counted int64
	if err := o.kernel.Live.Get(&counted); err == nil && counted < live {
		o.evicted += uint64(live - counted)
	}
}
