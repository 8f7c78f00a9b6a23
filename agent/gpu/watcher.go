package gpu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Config of a Watcher.
type Config struct {
	// Silence after which a reader that runs is taken as hung and replaced.
	Silence time.Duration
	// BackoffMin before the first restart, doubled up to BackoffMax until a reader has sampled for
	// Steady. A reader that lost one of several devices lives longer than that, so that the others
	// are missed for BackoffMin only when the next one looks anew.
	BackoffMin, BackoffMax, Steady time.Duration
	// Absent is the pause where there is no GPU, no driver or no reader: they come rarely.
	Absent time.Duration
}

// DefaultConfig is for a reader that samples once a second.
func DefaultConfig() Config {
	return Config{
		Silence: 10 * time.Second, BackoffMin: time.Second, BackoffMax: time.Minute,
		Steady: time.Minute, Absent: 10 * time.Minute,
	}
}

// Status of a Watcher.
type Status struct {
	// Record is the newest with State Sampling; nil before the first. Nobody changes it.
	Record *Record
	// Taken is when the newest record was read from the devices, by this process's clock.
	Taken time.Time
	// Looked: a reader has told of GPUs, or it is known why none can.
	Looked bool
	// Problem in words while no reader samples.
	Problem string
	// Absent: there is nothing to read, rather than something wrong.
	Absent bool
	// Restarts of readers that had sampled.
	Restarts int
}

// Watcher keeps a reader going and its newest record.
type Watcher struct {
	open Open
	from string
	cfg  Config
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	status Status
	said   string
}

// NewWatcher returns a watcher of the reader that open starts; from says where it runs, for people.
func NewWatcher(open Open, from string, cfg Config, log *slog.Logger) *Watcher {
	return &Watcher{open: open, from: from, cfg: cfg, log: log, status: Status{Problem: "GPUs were not looked at yet"}}
}

// From says where the reader runs.
func (w *Watcher) From() string { return w.from }

// Status as it is now. Any goroutine may ask.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Run keeps a reader going until ctx ends. It ends the reader.
func (w *Watcher) Run(ctx context.Context) error {
	pause := w.cfg.BackoffMin
	for ctx.Err() == nil {
		sampled, err := w.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		absent := isAbsent(err)
		w.ended(err, absent, sampled > 0)
		wait := pause
		switch {
		case absent:
			wait, pause = w.cfg.Absent, w.cfg.BackoffMin
		case sampled >= w.cfg.Steady:
			wait, pause = w.cfg.BackoffMin, 2*w.cfg.BackoffMin
		default:
			pause = min(2*pause, w.cfg.BackoffMax)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// lastWord is a reader's own reason to end.
type lastWord struct{ record *Record }

func (e *lastWord) Error() string { return e.record.Problem }

func isAbsent(err error) bool {
	var last *lastWord
	if errors.As(err, &last) {
		return last.record.State == NoLibrary || last.record.State == NoDevice
	}
	return errors.Is(err, ErrNoReader)
}

// follow starts a reader and keeps its records until it ends or falls silent. It reports for how
// long it sampled.
func (w *Watcher) follow(ctx context.Context) (sampled time.Duration, err error) {
	stream, err := w.open(ctx)
	if err != nil {
		return 0, err
	}
	records := make(chan *Record)
	failed := make(chan error, 1)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { failed <- read(stream, records, done) })
	defer func() {
		close(done)
		err = errors.Join(err, stream.Close())
		running.Wait()
	}()
	var first time.Time
	silence := time.NewTimer(w.cfg.Silence)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case r := <-records:
			if r.State != Sampling {
				return since(first), &lastWord{r}
			}
			if first.IsZero() {
				first = time.Now()
			}
			w.keep(r)
			silence.Reset(w.cfg.Silence)
		case err := <-failed:
			return since(first), err
		case <-silence.C:
			return since(first), fmt.Errorf("the GPU reader said nothing for %v: the driver hangs, or the reader is stopped", w.cfg.Silence)
		}
	}
}

// since is at least a moment when there was a first.
func since(first time.Time) time.Duration {
	if first.IsZero() {
		return 0
	}
	return max(1, time.Since(first))
}

// errEnded is the end of a reader that gave no reason, such as a signal.
var errEnded = errors.New("the GPU reader ended without a word: it was killed, or its driver ended it")

// What a reader may say in a while, which is several times what one says that samples often, or many
// devices cut into many instances. The while is long, so that also one that is read slowly, because it
// leaves no processor to spare, is found out.
const (
	while       = 10 * time.Second
	mostRecords = 1000
	mostBytes   = 4 * MaxRecordBytes
)

var errFlood = fmt.Errorf("the GPU reader says more than %d records or %d MiB in %v: it is no perf-gpu, or it is broken", mostRecords, mostBytes>>20, while)

// pace counts what was said in the current while.
type pace struct {
	since          time.Time
	records, bytes int
}

// floods takes a record of n bytes.
func (p *pace) floods(n int, now time.Time) bool {
	if now.Sub(p.since) >= while {
		*p = pace{since: now}
	}
	p.records++
	p.bytes += n
	return p.records > mostRecords || p.bytes > mostBytes
}

// read passes records on until the stream ends.
func read(from io.Reader, to chan<- *Record, done <-chan struct{}) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 64<<10), MaxRecordBytes)
	var p pace
	for lines.Scan() {
		if p.floods(len(lines.Bytes()), time.Now()) {
			return errFlood
		}
		r, err := Parse(lines.Bytes())
		if err != nil {
			return err
		}
		select {
		case to <- r:
		case <-done:
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read from the GPU reader: %w", err)
	}
	return errEnded
}

// keep takes a record that was written just now.
func (w *Watcher) keep(r *Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Record, w.status.Taken, w.status.Problem, w.status.Absent, w.status.Looked = r, time.Now().Add(-r.Took), "", false, true
	if what := fmt.Sprintf("%d devices", len(r.Devices)); w.said != what {
		w.said = what
		w.log.Info("GPUs are seen", "devices", len(r.Devices), "first", r.Devices[0].Name, "driver", r.Driver, "from", w.from)
	}
}

// ended notes why there are no records, and says it once.
func (w *Watcher) ended(err error, absent, had bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Problem, w.status.Absent, w.status.Looked = err.Error(), absent, true
	if had {
		w.status.Restarts++
	}
	if w.said == err.Error() {
		return
	}
	w.said = err.Error()
	if absent {
		w.log.Info("no GPU is seen; "+Cost, "reason", err, "from", w.from)
		return
	}
	w.log.Warn("GPUs cannot be read; "+Cost, "reason", err, "from", w.from)
}

// Cost is what goes without GPU counters.
const Cost = "power, clocks, throttling, links and SM, tensor and memory activity are not known, so bottlenecks are told from engine and host alone"

// Look starts a reader, takes its first record and ends it: for people who ask
// whether a GPU can be seen.
func Look(ctx context.Context, open Open) (*Record, error) {
	silence := DefaultConfig().Silence
	ctx, cancel := context.WithTimeoutCause(ctx, silence, fmt.Errorf("the GPU reader said nothing for %v", silence))
	defer cancel()
	stream, err := open(ctx)
	if err != nil {
		return nil, err
	}
	records, done, failed := make(chan *Record), make(chan struct{}), make(chan error, 1)
	var reading sync.WaitGroup
	reading.Go(func() { failed <- read(stream, records, done) })
	defer func() {
		close(done)
		_ = stream.Close() // the answer does not depend on it
		reading.Wait()
	}()
	select {
	case r := <-records:
		if r.State != Sampling {
			return nil, &lastWord{r}
		}
		return r, nil
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
