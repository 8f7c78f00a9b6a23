package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/optiinfra/performance-agent/agent/probe"
)

// A2 runs a trivial server and its clients at full load, with and without the observer in turn. All
// of it is one process, so that its processor time holds what the kernel's part costs in the sender's
// context and what reading events costs.
const (
	a2Pairs   = 20
	a2Run     = time.Second
	a2Clients = 8
	a2Chunks  = 100 // that a long stream has more than a short one
)

// costBar measures what the observer costs.
func costBar(ctx context.Context, _ string, out io.Writer) error {
	if _, err := probe.Check(probe.ModePacket); err != nil {
		return skipped(out, "A2", err)
	}
	s, err := startWireServer()
	if err != nil {
		return err
	}
	var kinds [3]costs
	for i, query := range []string{"", wireStream(1, 0), wireStream(1+a2Chunks, 0)} {
		if kinds[i], err = added(ctx, s.port, wireRequest(query)); err != nil {
			return skipped(out, "A2", errors.Join(err, s.close()))
		}
	}
	if err := s.close(); err != nil {
		return err
	}
	whole, short, long := kinds[0], kinds[1], kinds[2]
	base := middle(short.added)
	_, err = fmt.Fprintf(out, `BAR A2 value=%.2f unit=us target<=2 of=cpu_per_request quartiles=%.2f..%.2f without=%.1f pairs=%d requests=%d lost=%d dropped=%d
BAR A2.chunk value=%.3f unit=us target<=0.5 of=cpu_per_chunk quartiles=%.3f..%.3f without=%.1f pairs=%d requests=%d lost=%d dropped=%d
BAR A2.stream value=%.2f unit=us of=cpu_per_stream_of_1_chunk quartiles=%.2f..%.2f without=%.1f pairs=%d requests=%d lost=%d dropped=%d
`, middle(whole.added), quantile(whole.added, .25), quantile(whole.added, .75), middle(whole.without), a2Pairs, whole.requests, whole.lost, whole.dropped,
		(middle(long.added)-base)/a2Chunks, (quantile(long.added, .25)-base)/a2Chunks, (quantile(long.added, .75)-base)/a2Chunks,
		(middle(long.without)-middle(short.without))/a2Chunks, a2Pairs, long.requests, long.lost, long.dropped,
		base, quantile(short.added, .25), quantile(short.added, .75), middle(short.without), a2Pairs, short.requests, short.lost, short.dropped)
	return err
}

// costs of one kind of request, in microseconds of processor time.
type costs struct {
	without, added          []float64 // sorted; added: by pair
	requests, lost, dropped uint64    // with the observer
}

func middle(sorted []float64) float64 { return quantile(sorted, .5) }

// added measures pairs of runs, each of which begins with the other kind than the one before.
func added(ctx context.Context, port uint16, request []byte) (c costs, err error) {
	if _, _, err := fullLoad(ctx, port, request); err != nil { // connections, memory, caches
		return c, err
	}
	for i := range a2Pairs {
		var with, without float64
		for j := range 2 {
			if i%2 == j {
				without, _, err = fullLoad(ctx, port, request)
			} else {
				with, err = c.observed(ctx, port, request)
			}
			if err != nil {
				return c, err
			}
		}
		c.without = append(c.without, without)
		c.added = append(c.added, with-without)
	}
	slices.Sort(c.without)
	slices.Sort(c.added)
	return c, nil
}

// observed is a run beside an observer, which must have seen all of it.
func (c *costs) observed(ctx context.Context, port uint16, request []byte) (us float64, err error) {
	var n uint64
	var seen int
	counts, err := watching(ctx, port, func(s probe.Second) { seen += len(s.Requests) }, func() (err error) {
		us, n, err = fullLoad(ctx, port, request)
		return err
	})
	c.requests += n
	c.lost += counts.LostRequests
	c.dropped += counts.Dropped
	if err == nil && uint64(seen) < n*9/10 {
		err = fmt.Errorf("only %d of %d requests were seen: %+v", seen, n, counts)
	}
	return us, err
}

// fullLoad sends as fast as answers come, and returns the processor time for one request.
func fullLoad(ctx context.Context, port uint16, request []byte) (us float64, requests uint64, err error) {
	var n atomic.Uint64
	g, ctx := errgroup.WithContext(ctx)
	before, began := processorTime(), time.Now()
	for range a2Clients {
		g.Go(func() error {
			c := wireClient{port: port}
			defer c.close()
			for time.Since(began) < a2Run && ctx.Err() == nil {
				if _, err := c.call(request); err != nil {
					return err
				}
				n.Add(1)
			}
			return ctx.Err()
		})
	}
	err = g.Wait()
	used := processorTime() - before
	return float64(used) / float64(time.Microsecond) / float64(max(1, n.Load())), n.Load(), err
}

// processorTime of this process so far, in user space and in the kernel.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // it cannot fail for oneself
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
