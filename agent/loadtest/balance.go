package loadtest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Policy spreads requests over the ready targets.
type Policy string

// Policies. Round robin is what a Kubernetes Service comes to with many connections.
const (
	RoundRobin    Policy = "round_robin"
	Random        Policy = "random"
	LeastInFlight Policy = "least_inflight"
)

const (
	readyEvery   = 100 * time.Millisecond
	readyTimeout = time.Second
)

// balancer knows which targets are ready and picks among them.
type balancer struct {
	policy Policy
	client *http.Client

	mu       sync.Mutex // guards all below
	rng      *rand.Rand
	backends []*backend
	turn     int
	changed  chan struct{} // closed and replaced when a target becomes ready
}

type backend struct {
	Target
	ready    bool
	inFlight int
	ejected  time.Time // when it last took no connection
}

func newBalancer(targets []Target, policy Policy, seed uint64, client *http.Client) (*balancer, error) {
	switch policy {
	case RoundRobin, Random, LeastInFlight:
	default:
		return nil, fmt.Errorf("unknown policy %q; use %s, %s or %s", policy, RoundRobin, Random, LeastInFlight)
	}
	b := &balancer{policy: policy, client: client, rng: rand.New(rand.NewPCG(seed, 0xba1a)), changed: make(chan struct{})}
	for _, t := range targets {
		b.backends = append(b.backends, &backend{Target: t, ready: t.ReadyURL == ""})
	}
	return b, nil
}

// watch polls every readiness until ctx ends.
func (b *balancer) watch(ctx context.Context) {
	var polls sync.WaitGroup
	for _, k := range b.backends {
		if k.ReadyURL != "" {
			polls.Go(func() { b.watchOne(ctx, k) })
		}
	}
	polls.Wait()
}

func (b *balancer) watchOne(ctx context.Context, k *backend) {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		asked := time.Now()
		ready := b.poll(ctx, k.ReadyURL)
		if ctx.Err() != nil {
			return
		}
		b.set(k, ready, asked)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// poll asks once. Whatever is not 200 within a second is not ready.
func (b *balancer) poll(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is kept
	return resp.StatusCode == http.StatusOK
}

// set takes the answer to a poll; one that was asked before the target refused a connection is old.
func (b *balancer) set(k *backend, ready bool, asked time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ready && asked.Before(k.ejected) {
		return
	}
	if ready && !k.ready {
		close(b.changed)
		b.changed = make(chan struct{})
	}
	k.ready = ready
}

// eject takes a target that refused a connection out until it calls itself ready anew. It reports
// false for one that nobody polls: that stays in.
func (b *balancer) eject(k *backend) bool {
	if k.ReadyURL == "" {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k.ready, k.ejected = false, time.Now()
	return true
}

// acquire picks a ready target, waiting for one until ctx ends; release must follow.
func (b *balancer) acquire(ctx context.Context) (*backend, error) {
	for {
		k, changed := b.pick()
		if k != nil {
			return k, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (b *balancer) release(k *backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k.inFlight--
}

func (b *balancer) pick() (*backend, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.backends)
	first := b.turn
	if b.policy == Random {
		first = b.rng.IntN(n)
	}
	var best *backend
	for i := range n {
		at := (first + i) % n
		k := b.backends[at]
		if !k.ready || best != nil && k.inFlight >= best.inFlight {
			continue
		}
		best = k
		b.turn = (at + 1) % n
		if b.policy != LeastInFlight {
			break
		}
	}
	if best != nil {
		best.inFlight++
	}
	return best, b.changed
}
