package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/agent/collect"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

const (
	// p2Batch is the most windows in one message of the past.
	p2Batch = 16
	// p2Connecting bounds connections that are being made at once.
	p2Connecting = 64
	// p2Delivering bounds sidecars that deliver their past at once: given all of it at once, the control
	// plane would take longer for one round of them than it lets an agent be silent.
	p2Delivering = 16
	// p2GroupSize is how many replicas share a group.
	p2GroupSize = 100
)

// rawCodec sends and receives messages that are bytes already: what drives must cost little beside what
// is driven.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = slices.Clone(data)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// driven are sidecars as a control plane sees them, each with a connection of its own.
type driven struct {
	addr     string
	sidecars []*drivenSidecar
	feeding  sync.WaitGroup
	running  sync.WaitGroup
	stop     context.CancelFunc // of feeding

	mu    sync.Mutex      // guards what follows
	sum   int             // windows sent
	late  []time.Duration // how long after it was due a message of the present had been handed to its connection
	ended int             // streams that the control plane ended
	err   error           // of the first of them
}

type drivenSidecar struct {
	instance, group string
	recording       *recording
	offset          int       // in the recording, so that sidecars are not in step
	next            time.Time // second that is sent next
	conn            *grpc.ClientConn
	stream          grpc.ClientStream

	sending sync.Mutex // one sender at a time
}

// newDriven lays out n sidecars: groups one after another, each of one kind of load.
func newDriven(addr string, n int, kinds []*recording) *driven {
	d := &driven{addr: addr}
	for i := range n {
		group := i / p2GroupSize
		d.sidecars = append(d.sidecars, &drivenSidecar{
			instance: fmt.Sprintf("driven-%05d/0", i), group: fmt.Sprintf("group-%03d", group),
			recording: kinds[group%len(kinds)], offset: 7 * i,
		})
	}
	return d
}

// lastGroup attaches last.
func (d *driven) lastGroup() string { return d.sidecars[len(d.sidecars)-1].group }

// each does something for all sidecars, some at once.
func (d *driven) each(atOnce int, do func(*drivenSidecar) error) error {
	todo := make(chan *drivenSidecar)
	faults := make([]error, atOnce)
	var workers sync.WaitGroup
	for i := range atOnce {
		workers.Go(func() {
			for s := range todo {
				if faults[i] == nil {
					faults[i] = do(s)
				}
			}
		})
	}
	for _, s := range d.sidecars {
		todo <- s
	}
	close(todo)
	workers.Wait()
	return errors.Join(faults...)
}

// open attaches all sidecars.
func (d *driven) open(ctx context.Context) error {
	return d.each(p2Connecting, func(s *drivenSidecar) error {
		if err := s.open(ctx, d.addr); err != nil {
			return err
		}
		d.running.Go(func() { d.over(s.answer()) })
		return nil
	})
}

// fill delivers seconds of the past.
func (d *driven) fill(from, to time.Time) error {
	return d.each(p2Delivering, func(s *drivenSidecar) error {
		for s.next = from; s.next.Before(to); {
			n := min(p2Batch, int(to.Sub(s.next)/collect.Length))
			if err := s.send(s.batch(n)); err != nil {
				return fmt.Errorf("deliver the past of %s: %w", s.instance, err)
			}
			s.next = s.next.Add(time.Duration(n) * collect.Length)
			d.sent(n)
		}
		return nil
	})
}

func (s *drivenSidecar) open(ctx context.Context, addr string) (err error) {
	s.conn, err = grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10))
	if err != nil {
		return err
	}
	s.stream, err = s.conn.NewStream(ctx, &agentv1.AgentService_ServiceDesc.Streams[0], agentv1.AgentService_Connect_FullMethodName, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	hello, err := proto.Marshal(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: s.hello()}})
	if err != nil {
		return err
	}
	if err := s.send(hello); err != nil && !errors.Is(err, io.EOF) { // io.EOF: the answer tells the reason
		return err
	}
	m, err := s.receive()
	if err != nil {
		return fmt.Errorf("attach %s: %w", s.instance, err)
	}
	if m.GetWelcome() == nil {
		return fmt.Errorf("attach %s: no welcome", s.instance)
	}
	return nil
}

// hello as after a restart of the control plane: the engine is described at once.
func (s *drivenSidecar) hello() *agentv1.Hello {
	agent := s.instance[:len(s.instance)-len("/0")]
	e := proto.CloneOf(s.recording.engine)
	e.InstanceId, e.Name, e.Group = s.instance, agent, s.group
	return &agentv1.Hello{
		Identity: &agentv1.Identity{AgentId: agent, Session: agent, Hostname: agent, Version: "bar"},
		Engines:  []*agentv1.EngineInfo{e},
		States:   []*agentv1.StateReport{{InstanceId: s.instance, Sequence: 1, Phase: agentv1.Phase_PHASE_IDLE, Serving: true}},
	}
}

func (s *drivenSidecar) send(raw []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.SendMsg(&raw)
}

func (s *drivenSidecar) receive() (*agentv1.ConnectResponse, error) {
	var raw []byte
	if err := s.stream.RecvMsg(&raw); err != nil {
		return nil, err
	}
	m := &agentv1.ConnectResponse{}
	return m, proto.Unmarshal(raw, m)
}

// start sending windows of the present, each when its second is over, as collectors close them. All do so
// at the same moment, since their clocks agree.
func (d *driven) start(ctx context.Context) {
	ctx, d.stop = context.WithCancel(ctx)
	first := time.Now().Truncate(collect.Length)
	for _, s := range d.sidecars {
		s.next = first
		d.feeding.Go(func() { d.feed(ctx, s) })
	}
}

// answer pings until the stream ends.
func (s *drivenSidecar) answer() error {
	for {
		m, err := s.receive()
		if err != nil {
			return err
		}
		if m.GetPing() == nil {
			continue
		}
		pong, err := proto.Marshal(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Pong{Pong: &agentv1.Pong{UnixMs: m.GetPing().GetUnixMs()}}})
		if err != nil {
			return err
		}
		if err := s.send(pong); err != nil {
			return err
		}
	}
}

// feed a stream until ctx or the stream ends. What could not be sent in time goes in one message, as
// sidecars have it.
func (d *driven) feed(ctx context.Context, s *drivenSidecar) {
	for {
		due := s.next.Add(collect.Length + collect.Lag)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		n := 1 + int(min(time.Since(due)/collect.Length, p2Batch-1))
		if s.send(s.batch(n)) != nil {
			return // who receives knows the reason
		}
		s.next = s.next.Add(time.Duration(n) * collect.Length)
		d.sent(n)
		d.delayed(time.Since(due))
	}
}

// batch of the next n windows, as a message.
func (s *drivenSidecar) batch(n int) []byte {
	var windows []byte
	for i := range n {
		at := s.next.Add(time.Duration(i) * collect.Length)
		windows = protowire.AppendTag(windows, 1, protowire.BytesType)
		windows = protowire.AppendBytes(windows, s.recording.window(s.offset+int(at.Unix()), s.instance, at))
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), windows)
}

// sent n windows.
func (d *driven) sent(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sum += n
}

func (d *driven) delayed(late time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.late = append(d.late, late)
}

// total windows sent.
func (d *driven) total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sum
}

// lateness since the last call, sorted.
func (d *driven) lateness() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	late := d.late
	d.late = nil
	slices.Sort(late)
	return late
}

// over counts a stream that ended.
func (d *driven) over(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended++
	if d.err == nil {
		d.err = fmt.Errorf("a stream ended: %w", err)
	}
}

// cutOff is how many streams the control plane has ended, and why the first.
func (d *driven) cutOff() (n int, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended, d.err
}

// halt sends no further windows.
func (d *driven) halt() {
	if d.stop != nil {
		d.stop()
	}
	d.feeding.Wait()
}

// close ends all streams.
func (d *driven) close() {
	if d.stop != nil {
		d.stop()
	}
	for _, s := range d.sidecars {
		if s.conn != nil {
			_ = s.conn.Close() // its stream ends with it
		}
	}
	d.feeding.Wait()
	d.running.Wait()
}
