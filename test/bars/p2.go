package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/telemetry"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// The load of P2.
const (
	p2Sidecars = 5000
	p2Kept     = 600 // seconds that a control plane keeps where its bound on memory allows
	p2Past     = 60  // seconds that sidecars deliver first
	p2Seconds  = 60  // measured
	p2Memory   = 100.0
	kilobyte   = 1e3
	p2Alone    = 48 // sidecars in the store that is measured alone
)

// p2Rates are the loads of recorded engines, in requests per second; sidecars have them in equal parts.
var p2Rates = []float64{1, 5, 20, 50}

// ingestBar attaches 5,000 sidecars to a real control plane, which then runs on one core, and measures
// what taking in their windows takes.
func ingestBar(ctx context.Context, bin string, out io.Writer) (err error) {
	p, err := newPrograms(bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	kinds, err := recordWindows(ctx, p, p2Rates)
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if err := printStored(out, k); err != nil {
			return err
		}
	}
	c, err := p.startControl(ctx, "GODEBUG=gctrace=1")
	if err != nil {
		return err
	}
	empty, err := usageOf(c.process.pid())
	if err != nil {
		return err
	}
	d := newDriven(c.agents, p2Sidecars, kinds)
	defer d.close()
	m := ingested{empty: empty.rss, windowBytes: meanBytes(kinds)}
	if err := m.attach(ctx, p, c, d); err != nil {
		return err
	}
	if err := m.measure(ctx, p, c, d); err != nil {
		return err
	}
	if err := m.kept(ctx, c, d); err != nil {
		return err
	}
	return m.print(out)
}

func meanBytes(kinds []*recording) (mean int) {
	for _, k := range kinds {
		mean += k.bytes / len(kinds)
	}
	return mean
}

// ingested is what was measured.
type ingested struct {
	windowBytes      int
	empty, idle      int64         // resident bytes before anybody attached, and once all were
	attached, filled time.Duration // until all sidecars were, and had delivered the past
	logged           time.Duration // from then until the control plane had them all in its log
	pinned           bool          // to one core
	span, cpu        time.Duration
	sent             int             // windows in span
	late             []time.Duration // sorted
	ended            int             // streams
	rss, heap        int64
	want, have       int     // windows of the last minute: due, and kept
	depth            float64 // seconds kept of a sidecar, of p2Kept
}

// attach all sidecars and let them deliver the past, as after a break, with all cores.
func (m *ingested) attach(ctx context.Context, p *programs, c *control, d *driven) error {
	began := time.Now()
	if err := d.open(ctx); err != nil {
		return err
	}
	attached := time.Now()
	m.attached = time.Since(began)
	u, err := usageOf(c.process.pid())
	if err != nil {
		return err
	}
	m.idle = u.rss
	began = time.Now()
	to := began.Truncate(time.Second)
	if err := d.fill(to.Add(-p2Past*time.Second), to); err != nil {
		_, why := d.cutOff()
		return errors.Join(err, why)
	}
	m.filled = time.Since(began)
	if err := p.wait(ctx, "all sidecars in the log", 5*time.Minute, func(ctx context.Context) bool { return c.Get(ctx, "/groups/"+d.lastGroup(), &struct{}{}) == nil }); err != nil {
		return err
	}
	m.logged = time.Since(attached)
	return nil
}

// measure a minute of the present, the control plane on one core and this program on the others.
func (m *ingested) measure(ctx context.Context, p *programs, c *control, d *driven) (err error) {
	if m.pinned, err = apart(c.process.pid()); err != nil {
		return err
	}
	d.start(ctx)
	if err := rest(ctx, 5*time.Second); err != nil {
		return err
	}
	d.lateness()
	before, err := usageOf(c.process.pid())
	if err != nil {
		return err
	}
	began, sent := time.Now(), d.total()
	if err := rest(ctx, p2Seconds*time.Second); err != nil {
		return err
	}
	after, err := usageOf(c.process.pid())
	if err = errors.Join(err, p.check()); err != nil {
		return err
	}
	m.span, m.cpu, m.sent, m.late, m.rss = time.Since(began), after.cpu-before.cpu, d.total()-sent, d.lateness(), after.rss
	m.ended, _ = d.cutOff()
	log, err := os.ReadFile(c.process.log)
	if err != nil {
		return err
	}
	m.heap, err = liveHeap(log)
	return err
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// apart gives a process one core and this one the others, where there are others.
func apart(pid int) (pinned bool, err error) {
	var all, one, others unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return false, err
	}
	if all.Count() < 2 {
		return false, nil
	}
	for cpu := range runtime.NumCPU() + 1024 {
		switch {
		case !all.IsSet(cpu):
		case one.Count() == 0:
			one.Set(cpu)
		default:
			others.Set(cpu)
		}
	}
	return true, errors.Join(pin(pid, &one), pin(os.Getpid(), &others))
}

// pin all threads of a process; those to come inherit it.
func pin(pid int, to *unix.CPUSet) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, to); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin a thread: %w", err)
		}
	}
	return nil
}

var gcTrace = regexp.MustCompile(`(?m)^gc \d+ @.*, \d+->\d+->(\d+) MB, `)

// liveHeap is what the last collection of garbage found alive, by the runtime's own trace.
func liveHeap(log []byte) (int64, error) {
	all := gcTrace.FindAllSubmatch(log, -1)
	if len(all) == 0 {
		return 0, errors.New("the control plane left no trace of its garbage collections")
	}
	mebibytes, err := strconv.ParseInt(string(all[len(all)-1][1]), 10, 64)
	return mebibytes << 20, err
}

// kept stops the sidecars' windows, not their streams, and asks the control plane what it has: of the
// last minute from everybody, and of all that it should keep from one group of each kind.
func (m *ingested) kept(ctx context.Context, c *control, d *driven) error {
	d.halt()
	until := time.Now().Truncate(time.Second).Add(-time.Second) // of what was due
	groups := map[string][]*drivenSidecar{}
	for _, s := range d.sidecars {
		groups[s.group] = append(groups[s.group], s)
	}
	var deep, sidecars int
	for i, group := range slices.Sorted(maps.Keys(groups)) {
		want, have, err := windowsOf(ctx, c, groups[group], p2Seconds, until)
		if err != nil {
			return err
		}
		m.want, m.have = m.want+want, m.have+have
		if i >= len(p2Rates) {
			continue
		}
		_, all, err := windowsOf(ctx, c, groups[group], p2Kept, until)
		if err != nil {
			return err
		}
		deep, sidecars = deep+all, sidecars+len(groups[group])
	}
	m.depth = float64(deep) / float64(max(1, sidecars))
	return nil
}

// windowsOf a group in the last seconds, as due until a time, and as the control plane has them.
func windowsOf(ctx context.Context, c *control, group []*drivenSidecar, seconds int, until time.Time) (want, have int, err error) {
	var t api.Throughput
	if err := c.Get(ctx, fmt.Sprintf("/metrics/throughput?group=%s&window_seconds=%d", group[0].group, seconds), &t); err != nil {
		return 0, 0, err
	}
	want = len(group) * secondsBetween(t.From, t.To, until)
	return want, t.Windows, nil
}

// secondsBetween from and to that begin before until.
func secondsBetween(from, to, until time.Time) int {
	if until.Before(to) {
		to = until
	}
	return max(0, int(to.Sub(from)/time.Second))
}

// printStored prints what one sidecar's windows take in a store with nothing else in it and no bound.
func printStored(out io.Writer, k *recording) error {
	bytes, err := stored(k, p2Alone, p2Kept)
	if err != nil {
		return err
	}
	w := k.windows[0]
	_, err = fmt.Fprintf(out, "BAR P2.store.r%.0f value=%.1f unit=KB target<=%.0f of=heap_of_one_sidecar kept_s=%d unbounded=true requests_per_s=%.0f window_bytes=%d sketches=%d counters=%d gauges=%d sources=%d gpu_metrics=drawn\n",
		k.rate, float64(bytes)/kilobyte, p2Memory, p2Kept, k.rate, k.bytes, len(w.GetSketches()), len(w.GetCounters()), len(w.GetGauges()), len(w.GetSources()))
	return err
}

// stored is the heap that windows of one of n sidecars take.
func stored(k *recording, n, seconds int) (bytes int64, err error) {
	start := time.Unix(1_800_000_000, 0)
	store := telemetry.New(telemetry.Config{
		Seconds: seconds, BytesPerInstance: 1 << 30, Bytes: 1 << 40,
		Now: func() time.Time { return start.Add(time.Duration(seconds) * time.Second) },
	})
	before := heap()
	for second := range seconds {
		for i := range n {
			var pb agentv1.Window
			at := start.Add(time.Duration(second+1) * time.Second)
			if err := proto.Unmarshal(k.window(7*i+second, fmt.Sprintf("stored-%d/0", i), at), &pb); err != nil {
				return 0, err
			}
			w, err := fleet.FromProto(&pb)
			if err != nil {
				return 0, err
			}
			if err := store.Add(w); err != nil {
				return 0, err
			}
		}
	}
	bytes = (heap() - before) / int64(n)
	if st := store.Stats(); st.Windows != n*seconds {
		return 0, fmt.Errorf("the store kept %d of %d windows", st.Windows, n*seconds)
	}
	return bytes, nil
}

// heap in use once garbage is collected.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cores used, and the sidecars that one core takes: all that were attached when nothing was lost and
// the core was not full, else so many as had their windows kept.
func (m *ingested) cores() float64 { return m.cpu.Seconds() / m.span.Seconds() }

func (m *ingested) taken() int {
	if m.want == 0 {
		return 0
	}
	return int(float64(p2Sidecars) * float64(min(m.have, m.want)) / float64(m.want))
}

func (m *ingested) print(out io.Writer) error {
	perSidecar := func(bytes int64) float64 { return float64(bytes) / p2Sidecars / kilobyte }
	ms := func(q float64) float64 {
		if len(m.late) == 0 {
			return 0
		}
		return float64(m.late[min(len(m.late)-1, int(q*float64(len(m.late))))]) / float64(time.Millisecond)
	}
	_, err := fmt.Fprintf(out, `BAR P2 value=%d unit=sidecars target>=%d of=kept_on_one_core attached=%d cpu=%.1f%% pinned_to_one_core=%t seconds=%.0f windows_per_s=%.0f window_bytes=%d windows_due=%d windows_kept=%d streams_cut_off=%d late_ms_p50=%.0f late_ms_p99=%.0f driven=real_control_plane_by_grpc_streams
BAR P2.cpu value=%.1f unit=percent target<=100 of=one_core us_per_window=%.0f
BAR P2.memory value=%.1f unit=KB target<=%.0f of=rss_per_sidecar live_heap=%.1f empty_process=%.1f attached_without_windows=%.1f kept_s=%.0f of_s=%d
BAR P2.past value=%.0f unit=windows/s cores=%d seconds=%.0f streams_at_once=%d batch=%d attached_s=%.1f in_the_log_s=%.1f
`, m.taken(), p2Sidecars, p2Sidecars, 100*m.cores(), m.pinned, m.span.Seconds(), float64(m.sent)/m.span.Seconds(), m.windowBytes, m.want, m.have, m.ended, ms(.5), ms(.99),
		100*m.cores(), m.cpu.Seconds()/float64(max(1, m.sent))*1e6,
		perSidecar(m.rss), p2Memory, perSidecar(m.heap), perSidecar(m.empty), perSidecar(m.idle), m.depth, p2Kept,
		p2Sidecars*p2Past/m.filled.Seconds(), runtime.NumCPU(), m.filled.Seconds(), p2Delivering, p2Batch, m.attached.Seconds(), m.logged.Seconds())
	return err
}
