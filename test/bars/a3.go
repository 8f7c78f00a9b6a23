package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/optiinfra/performance-agent/agent/probe"
)

// The load of A3: 2,000 streamed requests a second, each by one of many clients with its own Poisson
// arrivals, one connection in twenty not used again.
const (
	a3Rate     = 2000.0
	a3Clients  = 100
	a3Duration = 40 * time.Second
	a3Churn    = 0.05
	a3Chunks   = 4
	a3Gap      = time.Millisecond
	a3Target   = 1.0 // ms
	a3Seen     = 99.99
	// a3Near is how far apart client and observer may put the beginning of one request.
	a3Near = 100 * time.Millisecond
)

// observerBar holds the observer's times against the client's clock.
func observerBar(ctx context.Context, _ string, out io.Writer) error {
	if _, err := probe.Check(probe.ModePacket); err != nil {
		return skipped(out, "A3", err)
	}
	s, err := startWireServer()
	if err != nil {
		return err
	}
	var calls []wireCall
	var seen []probe.Request
	counts, err := watching(ctx, s.port, func(s probe.Second) { seen = append(seen, s.Requests...) }, func() (err error) {
		calls, err = poisson(ctx, s.port)
		return err
	})
	if failed := s.close(); err == nil {
		err = failed
	}
	if err != nil {
		return skipped(out, "A3", err)
	}
	pairs := match(calls, seen)
	ttft, e2e := errorsOf(pairs)
	_, err = fmt.Fprintf(out, `BAR A3 value=%.3f unit=ms target<=%.0f requests=%d rate=%.0f connections=%d churn=%.0f%% chunks=%d
BAR A3.seen value=%.4f unit=percent target>=%.2f requests=%d seen=%d strangers=%d lost=%d dropped=%d
BAR A3.ttft value=%.3f unit=ms target<=%.0f of=p99 p50=%.3f max=%.3f
BAR A3.e2e value=%.3f unit=ms target<=%.0f of=p99 p50=%.3f max=%.3f
`, max(quantile(ttft, .99), quantile(e2e, .99)), a3Target, len(calls), float64(len(calls))/a3Duration.Seconds(), counts.Connections, 100*a3Churn, a3Chunks,
		100*float64(len(pairs))/float64(len(calls)), a3Seen, len(calls), len(pairs), len(seen)-len(pairs), counts.LostRequests, counts.Dropped,
		quantile(ttft, .99), a3Target, quantile(ttft, .5), quantile(ttft, 1),
		quantile(e2e, .99), a3Target, quantile(e2e, .5), quantile(e2e, 1))
	return err
}

// poisson sends the load and returns what the clients noted.
func poisson(ctx context.Context, port uint16) (calls []wireCall, err error) {
	var mu sync.Mutex // guards calls
	request := wireRequest(wireStream(a3Chunks, a3Gap))
	g, ctx := errgroup.WithContext(ctx)
	end := time.Now().Add(a3Duration)
	for i := range a3Clients {
		g.Go(func() error {
			c := wireClient{port: port}
			defer c.close()
			random := rand.New(rand.NewPCG(3, uint64(i)))
			var mine []wireCall
			for due := time.Now(); ; {
				due = due.Add(time.Duration(random.ExpFloat64() * a3Clients / a3Rate * float64(time.Second)))
				if due.After(end) {
					break
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Until(due)):
				}
				call, err := c.call(request)
				if err != nil {
					return err
				}
				mine = append(mine, call)
				if random.Float64() < a3Churn {
					c.close()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, mine...)
			return nil
		})
	}
	err = g.Wait()
	return calls, err
}

// pair is one request as both saw it.
type pair struct {
	call wireCall
	seen probe.Request
}

// match finds for each call the request from its address that began with it.
func match(calls []wireCall, seen []probe.Request) (pairs []pair) {
	from := map[netip.AddrPort][]probe.Request{}
	for _, r := range seen {
		from[r.Client] = append(from[r.Client], r)
	}
	for _, c := range calls {
		all := from[c.client]
		i := slices.IndexFunc(all, func(r probe.Request) bool { return r.Start.Sub(c.sent).Abs() < a3Near && complete(r) })
		if i < 0 {
			continue
		}
		pairs = append(pairs, pair{c, all[i]})
		from[c.client] = slices.Delete(all, i, i+1)
	}
	return pairs
}

// complete says that all of a request was seen, and as it was.
func complete(r probe.Request) bool {
	return r.Outcome == probe.Completed && r.Status == 200 && r.Stream && r.Chunks == a3Chunks && r.Class == probe.ClassInference
}

// errorsOf the observer in milliseconds, sorted.
func errorsOf(pairs []pair) (ttft, e2e []float64) {
	ms := func(d time.Duration) float64 { return float64(d.Abs()) / float64(time.Millisecond) }
	for _, p := range pairs {
		first, _ := p.seen.TTFT()
		all, _ := p.seen.E2E()
		ttft = append(ttft, ms(first-p.call.first.Sub(p.call.sent)))
		e2e = append(e2e, ms(all-p.call.over.Sub(p.call.sent)))
	}
	slices.Sort(ttft)
	slices.Sort(e2e)
	return ttft, e2e
}

// quantile of sorted values, 0 where there are none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
