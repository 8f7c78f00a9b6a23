package cluster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// The first byte of a connection to the Raft port tells what it is for.
const (
	streamRaft = 'R'
	streamAsk  = 'A'
)

const greetingTimeout = 5 * time.Second

// stream is the one port between servers: Raft's connections and our own short questions share it.
// It implements raft.StreamLayer.
type stream struct {
	listener  net.Listener
	advertise net.Addr
	security  *Security
	answer    func(conn net.Conn, closed <-chan struct{})
	logger    *slog.Logger

	raft chan net.Conn
	done chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex // guards open
	open  map[*tracked]struct{}
	close sync.Once
}

var _ raft.StreamLayer = (*stream)(nil)

// advertised is the address by which peers know a server; a name in it is theirs to resolve.
type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }

// listen opens the port. answer serves one question and need not close the connection; closed is
// closed when the stream is.
func listen(cfg Config, answer func(net.Conn, <-chan struct{}), logger *slog.Logger) (*stream, error) {
	l := cfg.Listener
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", cfg.RaftAddr); err != nil {
			return nil, listenError(cfg.RaftAddr, err)
		}
	}
	addr := l.Addr()
	if cfg.AdvertiseRaft != "" {
		addr = advertised(cfg.AdvertiseRaft)
	}
	s := &stream{
		listener: l, advertise: addr, security: cfg.Security, answer: answer, logger: logger,
		raft: make(chan net.Conn), done: make(chan struct{}), open: map[*tracked]struct{}{},
	}
	s.wg.Go(s.accept)
	return s, nil
}

func listenError(addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen for other servers: %s is taken by another process: stop it, or set another Raft address (%w)", addr, err)
	}
	return fmt.Errorf("listen for other servers on %s: %w", addr, err)
}

func (s *stream) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			select {
			case <-s.done:
				return
			case <-time.After(50 * time.Millisecond): // out of descriptors, most likely
				s.logger.Warn("accept connection from a server", "error", err)
				continue
			}
		}
		if s.security != nil {
			conn = s.security.Server(conn)
		}
		if t := s.track(conn); t != nil {
			s.wg.Go(func() { s.greet(t) })
		}
	}
}

// tracked is a connection that the stream closes when it is closed itself: Raft's transport leaves
// its pooled connections open.
type tracked struct {
	net.Conn
	from *stream
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.from.mu.Lock()
	delete(t.from.open, t)
	t.from.mu.Unlock()
	return t.Conn.Close()
}

// track takes a connection over; nil when the stream is closed already.
func (s *stream) track(conn net.Conn) *tracked {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		conn.Close()
		return nil
	default:
	}
	t := &tracked{conn, s}
	s.open[t] = struct{}{}
	return t
}

func (s *stream) greet(conn *tracked) {
	_ = conn.SetDeadline(time.Now().Add(greetingTimeout))
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		conn.Close()
		return
	}
	switch kind[0] {
	case streamRaft:
		_ = conn.SetDeadline(time.Time{})
		select {
		case s.raft <- conn:
			return // Raft's from here on
		case <-s.done:
		}
	case streamAsk:
		s.answer(conn, s.done)
	}
	conn.Close()
}

// Accept hands Raft its next connection.
func (s *stream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.raft:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close stops listening, ends all connections and waits for questions in progress.
func (s *stream) Close() error {
	var err error
	s.close.Do(func() {
		s.mu.Lock()
		close(s.done)
		for t := range s.open {
			t.Conn.Close()
		}
		s.mu.Unlock()
		err = s.listener.Close()
	})
	s.wg.Wait()
	return err
}

// Addr is the advertised address.
func (s *stream) Addr() net.Addr { return s.advertise }

// Dial opens a connection for Raft.
func (s *stream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.dial(string(addr), streamRaft, timeout)
}

func (s *stream) dial(addr string, kind byte, timeout time.Duration) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return nil, err
	}
	if s.security != nil {
		conn = s.security.Client(conn, addr)
	}
	t := s.track(conn)
	if t == nil {
		return nil, net.ErrClosed
	}
	_ = t.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := t.Write([]byte{kind}); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, t.SetWriteDeadline(time.Time{})
}
