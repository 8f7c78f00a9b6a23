package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// The replay that is timed: eight replicas of one engine under an hour of recorded conversations.
const (
	speedReplicas = 8
	speedRuns     = 5
	speedModel    = "llama-3.1-8b"
	speedGPU      = "h200-sxm"
)

// speedBar times the simulator on one core: the trace is parsed before, routing, prefix hashes, steps and
// summary are in it. Value and target are wall-clock time, the median of the runs; beside it the time that
// the processor worked, which a busy machine does not stretch.
func speedBar(_ context.Context, _ string, out io.Writer) error {
	files, err := dataFiles(dataDir(), "mooncake_*.jsonl")
	if errors.Is(err, errNoData) {
		_, err = fmt.Fprintf(out, "BAR T5 skipped reason=%q\n", err)
		return err
	}
	if err != nil {
		return err
	}
	f, err := os.Open(files[0])
	if err != nil {
		return err
	}
	defer f.Close()
	trace, err := workload.ReadMooncakeJSONL(f)
	if err != nil {
		return fmt.Errorf("%s: %w", files[0], err)
	}
	var wall, cpu []float64
	var last des.Result
	for range speedRuns {
		start, busy := time.Now(), ownProcessorTime()
		if last, err = replaySpeed(trace); err != nil {
			return err
		}
		wall, cpu = append(wall, time.Since(start).Seconds()), append(cpu, (ownProcessorTime()-busy).Seconds())
	}
	return printSpeed(out, last, wall, cpu)
}

// replaySpeed runs the trace once through fresh engines.
func replaySpeed(trace []workload.Request) (des.Result, error) {
	tables, err := perfmodel.Load()
	if err != nil {
		return des.Result{}, err
	}
	setup := perfmodel.Setup{Model: tables.Models[speedModel], GPU: tables.GPUs[speedGPU], MaxNumSeqs: 256, MaxBatchedTokens: 8192}
	p, err := perfmodel.New(setup, perfmodel.Prior())
	if err != nil {
		return des.Result{}, err
	}
	capacity, err := p.KVCapacityTokens()
	if err != nil {
		return des.Result{}, err
	}
	engines := make([]*des.Engine, speedReplicas)
	for i := range engines {
		engines[i] = des.New(des.Config{
			MaxNumSeqs: setup.MaxNumSeqs, MaxBatchedTokens: setup.MaxBatchedTokens, KVTokens: capacity, ChunkedPrefill: true, PrefixCaching: true, AsyncScheduling: true,
		}, p, uint64(i))
	}
	return des.Run(engines, trace, des.Options{Router: des.LeastLoaded{}})
}

func printSpeed(out io.Writer, r des.Result, wall, cpu []float64) error {
	slices.Sort(wall)
	slices.Sort(cpu)
	seconds := median(wall)
	var steps uint64
	for _, s := range r.Stats {
		steps += s.Steps
	}
	_, err := fmt.Fprintf(out, `BAR T5 value=%.2f unit=s target<=1.5 of=median_wall runs=%d fastest=%.2f slowest=%.2f requests=%d finished=%d replicas=%d steps=%d simulated=true
BAR T5.realtime value=%.0f unit=times_real_time target>=2000 span_s=%.0f
BAR T5.cpu value=%.2f unit=s of=median_processor_time per_step_us=%.2f
`, seconds, len(wall), wall[0], wall[len(wall)-1], len(r.Outcomes), r.Summary.Finished, len(r.Stats), steps,
		r.Elapsed.Seconds()/seconds, r.Elapsed.Seconds(), median(cpu), 1e6*median(cpu)/float64(max(steps, 1)))
	return err
}

// ownProcessorTime is what this process has worked so far.
func ownProcessorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
