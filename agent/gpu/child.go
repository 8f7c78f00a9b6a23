package gpu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Open starts a reader and returns its records, one a line. Closing them ends the reader; it must
// be possible while a Read waits, which it ends. ErrNoReader says that there is none to start.
type Open func(ctx context.Context) (io.ReadCloser, error)

// ErrNoReader: there is no program that could read GPUs.
var ErrNoReader = errors.New("there is no GPU reader")

// Child opens the reader at path as a child of this process.
func Child(path string) Open {
	return func(context.Context) (io.ReadCloser, error) {
		c := &child{cmd: exec.Command(path, ReaderArguments()...), ended: make(chan struct{})}
		if err := c.start(); err != nil {
			return nil, explain(path, err)
		}
		return c, nil
	}
}

// explain says why a reader cannot be started. The kernel says of a program whose dynamic loader is
// missing that the program is.
func explain(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("start the GPU reader: %w", err)
	}
	if _, there := os.Stat(path); there == nil {
		return fmt.Errorf("%w that runs here: %s needs glibc, which this image does not have", ErrNoReader, path)
	}
	return fmt.Errorf("%w: %w", ErrNoReader, err)
}

// ReaderArguments make a reader that ends with whoever holds its standard input.
func ReaderArguments() []string { return []string{"-child"} }

// endLimit is how long a killed reader is waited for; one that the driver holds ends when it lets go.
const endLimit = 2 * time.Second

// child is a reader that runs. It does not outlive this process: its standard input ends with it,
// and where it cannot see that, stopped, the kernel kills it.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *os.File
	ended chan struct{}
}

func (c *child) start() error {
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, theirs, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return err
	}
	defer theirs.Close()
	c.stdin, c.out = stdin, out
	c.cmd.Stdout = theirs
	c.cmd.Stderr = &atMost{to: os.Stderr, left: mostComplaints} // what the dynamic linker says when it ends the reader
	c.cmd.WaitDelay = endLimit
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(c.ended)
		runtime.LockOSThread() // the death signal comes when the thread that started it ends
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // its last record says why it ended
		}
	}()
	if err := <-started; err != nil {
		stdin.Close()
		out.Close()
		return err
	}
	return nil
}

// mostComplaints of one reader are passed on, in bytes.
const mostComplaints = 16 << 10

// atMost passes on the beginning of what it is given.
type atMost struct {
	to   io.Writer
	left int
}

func (w *atMost) Write(p []byte) (int, error) {
	if n := min(len(p), w.left); n > 0 {
		w.left -= n
		_, _ = w.to.Write(p[:n]) // nobody reads them: nothing is lost
	}
	return len(p), nil
}

// Read returns what the reader says.
func (c *child) Read(p []byte) (int, error) { return c.out.Read(p) }

// Close kills the reader and waits for its end.
func (c *child) Close() error {
	_ = c.cmd.Process.Kill() // it may have ended
	c.stdin.Close()
	c.out.Close()
	select {
	case <-c.ended:
		return nil
	case <-time.After(endLimit):
		return errors.New("the GPU reader does not end after SIGKILL: the driver holds it")
	}
}
