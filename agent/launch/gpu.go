package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"
)

// maxGPUReaders bounds the readers that run at a time: one for the sidecar, others for people who ask.
const maxGPUReaders = 4

// readerEndLimit is how long a killed reader is waited for; the driver may hold it.
const readerEndLimit = 2 * time.Second

// serveGPU starts the GPU reader in this container, which owns the GPUs, and passes on what it says
// until it ends, the client goes or ctx ends; then it is killed. Nobody asks: none runs.
func (l *Launcher) serveGPU(ctx context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		reader, err := l.startReader()
		if err != nil {
			refuse(w, err)
			return
		}
		defer l.endReader(ctx, reader)
		for _, c := range []context.Context{ctx, r.Context()} {
			stop := context.AfterFunc(c, reader.kill)
			defer stop()
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		f := flusher{w, http.NewResponseController(w)}
		_ = f.control.Flush()         // a client that is gone is seen below
		_, _ = io.Copy(f, reader.out) // either side went: that is its end
	}
}

// flusher sends each piece at once.
type flusher struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	return n, errors.Join(err, f.control.Flush())
}

// gpuReader is a reader that runs.
type gpuReader struct {
	pid        int
	exit       <-chan syscall.WaitStatus
	stdin, out *os.File
	reap       *reaper
}

// kill ends it, and the reading of what it says.
func (g *gpuReader) kill() {
	g.reap.signal(g.pid, syscall.SIGKILL)
	g.out.Close()
}

func (l *Launcher) startReader() (*gpuReader, error) {
	argv := l.cfg.GPUReader
	if len(argv) == 0 {
		return nil, fmt.Errorf("%w: this launcher was given none", ErrNoGPUReader)
	}
	if _, err := os.Stat(argv[0]); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not there", ErrNoGPUReader, argv[0])
	}
	stdin, ours, err := os.Pipe() // it ends with its standard input, should this process be killed
	if err != nil {
		return nil, fmt.Errorf("GPU reader's standard input: %w", err)
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("GPU reader's standard output: %w", err)
	}
	defer stdout.Close()
	g := &gpuReader{stdin: ours, out: out, reap: l.reap}
	g.pid, g.exit, err = l.reap.start(func() (int, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.readers) >= maxGPUReaders {
			return 0, fmt.Errorf("%d GPU readers run already, as many as may", len(l.readers))
		}
		pid, err := fork(argv[0], Spec{Argv: argv}, environment(Spec{}, l.mark()), stdin, stdout, os.Stderr)
		if err == nil {
			l.readers = append(l.readers, pid)
		}
		return pid, err
	})
	if err != nil {
		ours.Close()
		out.Close()
		if errors.Is(err, ErrCommand) { // it never will run
			return nil, fmt.Errorf("%w that runs here: %s", ErrNoGPUReader, err.Error())
		}
		return nil, fmt.Errorf("start the GPU reader: %w", err)
	}
	return g, nil
}

// endReader kills the reader and waits until it is reaped, which nobody does any more after ctx.
func (l *Launcher) endReader(ctx context.Context, g *gpuReader) {
	g.kill()
	g.stdin.Close()
	select {
	case <-g.exit:
	case <-ctx.Done():
	case <-time.After(readerEndLimit):
		l.log.Warn("GPU reader does not end after SIGKILL: the driver holds it", "pid", g.pid)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers = slices.DeleteFunc(l.readers, func(pid int) bool { return pid == g.pid })
}

// withoutReaders leaves out GPU readers, which are not the engine's and do not hold GPUs.
func (l *Launcher) withoutReaders(all []proc) []proc {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(all, func(p proc) bool { return slices.Contains(l.readers, p.PID) })
}
