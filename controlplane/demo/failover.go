package demo

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

// failover calls whichever control-plane node answers.
type failover struct {
	clients []*client.Client

	mu sync.Mutex // guards at
	at int        // index of the node that answered last
}

func newFailover(urls []string) *failover {
	f := &failover{}
	for _, u := range urls {
		f.clients = append(f.clients, client.New(u))
	}
	return f
}

func (f *failover) current() *client.Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clients[f.at]
}

func (f *failover) addr() string { return f.current().Addr() }

func (f *failover) next() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = (f.at + 1) % len(f.clients)
}

// call tries nodes until one gives an answer of its own, for a few seconds: an election takes one.
// Changing calls carry an idempotency key, so a repetition is safe.
func (f *failover) call(ctx context.Context, do func(context.Context, *client.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var last error
	err := client.Wait(ctx, 200*time.Millisecond, func(ctx context.Context) (bool, error) {
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		last = do(one, f.current())
		problem := &client.Problem{}
		if last == nil || errors.As(last, &problem) && problem.Status != 503 {
			return true, nil
		}
		f.next()
		return false, nil
	})
	if err != nil && last != nil {
		return last
	}
	return last
}

func (f *failover) get(ctx context.Context, path string, out any) error {
	return f.call(ctx, func(ctx context.Context, c *client.Client) error { return c.Get(ctx, path, out) })
}

func (f *failover) post(ctx context.Context, path, key string, in, out any) error {
	return f.call(ctx, func(ctx context.Context, c *client.Client) error { return c.Post(ctx, path, key, in, out) })
}

// leader names the node that leads, "" while none is known.
func (f *failover) leader(ctx context.Context) string {
	var h api.ClusterHealth
	if f.get(ctx, "/health/cluster", &h) != nil {
		return ""
	}
	return h.LeaderID
}
