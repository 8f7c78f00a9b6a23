package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Client asks a launcher over its Unix socket. It is safe for concurrent use. A call that is given
// up (ctx ends) is carried out by the launcher all the same; asking again for the same waits for it.
type Client struct {
	socket string
	http   *http.Client
}

// Dial returns a client for the launcher on that socket. It connects at the first call.
func Dial(socket string) *Client {
	var d net.Dialer
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns:    4,
		IdleConnTimeout: 10 * time.Second,
	}}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status of engine and launcher.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Start the engine and return once its process exists. It does nothing when that configuration
// already runs and returns ErrRunning when another does, ErrCommand when it cannot be executed.
func (c *Client) Start(ctx context.Context, s Spec) (Status, error) {
	return call[Status](ctx, c, http.MethodPost, "/v1/start", specRequest{s})
}

// Restart ends whatever runs, waits until its memory is back, and starts the spec. It does nothing
// when that configuration already runs.
func (c *Client) Restart(ctx context.Context, s Spec) (Status, error) {
	return call[Status](ctx, c, http.MethodPost, "/v1/restart", specRequest{s})
}

// Stop the engine and return once it and all its descendants are gone. OwnGrace uses the grace of
// the running spec; a smaller grace while a stop is under way shortens that one.
func (c *Client) Stop(ctx context.Context, grace time.Duration) (Status, error) {
	var r stopRequest
	if grace >= 0 {
		r.Grace = &grace
	}
	return call[Status](ctx, c, http.MethodPost, "/v1/stop", r)
}

// Commit makes a spec the one that a restarted launcher starts. It returns after the spec is on
// disk; ErrState means that the former one still stands.
func (c *Client) Commit(ctx context.Context, s Spec) (Status, error) {
	return call[Status](ctx, c, http.MethodPost, "/v1/commit", specRequest{s})
}

// Log returns what is kept of the engine's output from offset since on.
func (c *Client) Log(ctx context.Context, since uint64) (Log, error) {
	return call[Log](ctx, c, http.MethodGet, "/v1/log?since="+strconv.FormatUint(since, 10), nil)
}

// beginLimit is how long a launcher may take to begin an answer that has no end.
const beginLimit = 5 * time.Second

// GPU starts the launcher's GPU reader and returns its records, one a line. Closing them ends it.
// ErrNoGPUReader says that the launcher has none.
func (c *Client) GPU(ctx context.Context) (io.ReadCloser, error) {
	asked, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(beginLimit, cancel)
	resp, err := c.do(asked, http.MethodGet, "/v1/gpu", nil)
	switch {
	case err == nil && late.Stop():
	case err != nil && ctx.Err() == nil && asked.Err() != nil, err == nil:
		cancel()
		return nil, fmt.Errorf("%w on %s within %v", ErrUnreachable, c.socket, beginLimit)
	default:
		cancel()
		return nil, err
	}
	return &stream{resp.Body, cancel}, nil
}

// stream is an answer without an end.
type stream struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close ends it, and a Read that waits.
func (s *stream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var out T
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return out, fmt.Errorf("encode launcher request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, payload)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 8<<20)).Decode(&out); err != nil {
		return out, fmt.Errorf("launcher answer to %s: %w", path, err)
	}
	return out, nil
}

// do returns an answer that is 200; every other is an error.
func (c *Client) do(ctx context.Context, method, path string, payload io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://launcher"+path, payload)
	if err != nil {
		return nil, fmt.Errorf("launcher request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("launcher %s: %w", path, ctx.Err())
		}
		return nil, fmt.Errorf("%w on %s: is `perf-agent launch` running, and is the socket's folder shared with it? (%w)",
			ErrUnreachable, c.socket, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&f); err != nil {
		return nil, fmt.Errorf("launcher answered %s", resp.Status)
	}
	return nil, decodeFailure(resp.StatusCode, f)
}
