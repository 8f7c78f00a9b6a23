package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Env is the process a dialect runs in.
type Env struct {
	Options
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Log            *slog.Logger // the simulation's own remarks, not the engine's log
	// Self is the command that runs this program's sim-engine again, for other processes of the engine,
	// and Args what followed it.
	Self, Args []string
}

// Announce says what this process is, before anything that looks like an engine's output.
func (e *Env) Announce(inert []string) {
	fmt.Fprintf(e.Stdout, "SIMULATED engine: no model and no GPU behind this server. dialect=%s gpu=%s model=%s seed=%d\n", e.Dialect, e.GPU, e.Model, e.Seed)
	fmt.Fprintf(e.Stdout, "SIMULATED engine: time scale of start-up and shut-down %g; serving time is never scaled; a token is a word.\n", e.StartScale)
	for _, name := range inert {
		fmt.Fprintf(e.Stdout, "SIMULATED engine: --%s is accepted without effect.\n", name)
	}
}

// Phase is one stretch of start-up: it lasts, then its lines are logged.
type Phase struct {
	Lasts time.Duration
	Lines []string
}

// StartUp plays the phases, each line through log; the context's error if it ends before they do.
func (e *Env) StartUp(ctx context.Context, phases []Phase, log func(string)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, p := range phases {
		timer.Reset(time.Duration(float64(p.Lasts) * e.StartScale))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, l := range p.Lines {
			log(l)
		}
	}
	return nil
}

// Poll asks every so often until the answer is yes or ctx ends, and returns the last answer.
func Poll(ctx context.Context, every time.Duration, yes func() bool) bool {
	t := time.NewTicker(every)
	defer t.Stop()
	for !yes() {
		select {
		case <-t.C:
		case <-ctx.Done():
			return yes()
		}
	}
	return true
}

// LineLog writes lines of an engine's log in its own format, safely from several goroutines.
type LineLog struct {
	W      io.Writer
	Prefix func(time.Time) string

	mu sync.Mutex // guards W
}

// Printf writes one line.
func (l *LineLog) Printf(format string, args ...any) {
	line := l.Prefix(time.Now()) + fmt.Sprintf(format, args...) + "\n"
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.W, line)
}

// Print writes one line as it is.
func (l *LineLog) Print(line string) { l.Printf("%s", line) }

// Port is a TCP port that is bound but refuses connections until Listen.
type Port struct{ file *os.File }

// Bind takes host's port; Close it unless Listen is called.
func Bind(host string, port int) (*Port, error) {
	addr, err := net.ResolveTCPAddr("tcp4", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &Port{os.NewFile(uintptr(fd), "port")}
	at := &syscall.SockaddrInet4{Port: addr.Port}
	copy(at.Addr[:], addr.IP.To4())
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, at)
	}
	if err != nil {
		p.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return p, nil
}

// Listen starts to accept connections.
func (p *Port) Listen() (net.Listener, error) {
	defer p.Close()
	if err := syscall.Listen(int(p.file.Fd()), 2048); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(p.file)
}

// Close gives the port back.
func (p *Port) Close() { p.file.Close() }

// PortTaken reports whether a listen error means that another process has the port.
func PortTaken(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// Server is an HTTP server that ends without leaving a goroutine.
type Server struct {
	http *http.Server
	done chan error
}

// Serve answers on the listener until Shutdown or Close. Keep-alive connections close after idle;
// zero means never.
func Serve(ln net.Listener, h http.Handler, idle time.Duration) *Server {
	s := &Server{http: &http.Server{Handler: h, IdleTimeout: idle, ReadHeaderTimeout: time.Minute}, done: make(chan error, 1)}
	go func() { s.done <- s.http.Serve(ln) }()
	return s
}

// Shutdown stops accepting and waits for requests to end until ctx does, then cuts them.
func (s *Server) Shutdown(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	<-s.done
}

// Close cuts all connections.
func (s *Server) Close() {
	s.http.Close()
	<-s.done
}
