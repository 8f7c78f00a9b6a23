// Package client calls the control plane's REST interface: for the command line and for the demo.
// It retries nothing by itself; a changing call takes an idempotency key, so that its caller may.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
)

// DefaultAddr is where a control plane listens by default.
const DefaultAddr = "http://127.0.0.1:8002"

// ErrUnreachable means that no control plane answered at the address.
var ErrUnreachable = errors.New("control plane unreachable")

// Problem is the control plane's own refusal.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors"`
}

func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	for _, e := range p.Errors {
		text += fmt.Sprintf("; %s %s", e.Location, e.Message)
	}
	return text
}

// Client of one control-plane node. Any node will do: followers forward what only the leader can do.
type Client struct {
	addr string
	http *http.Client
}

// New returns a client for an address such as http://127.0.0.1:8002.
func New(addr string) *Client {
	return &Client{addr: strings.TrimRight(addr, "/"), http: &http.Client{}}
}

// Addr is the address the client was made for.
func (c *Client) Addr() string { return c.addr }

// Get reads a path into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, "", nil, out)
}

// Post sends in as JSON and reads the answer into out. key makes a repetition safe; it may be empty.
func (c *Client) Post(ctx context.Context, path, key string, in, out any) error {
	return c.do(ctx, http.MethodPost, path, key, in, out)
}

// Put is Post with PUT.
func (c *Client) Put(ctx context.Context, path, key string, in, out any) error {
	return c.do(ctx, http.MethodPut, path, key, in, out)
}

// Delete removes what is at a path and reads the answer into out.
func (c *Client) Delete(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodDelete, path, "", nil, out)
}

// Raw reads a path as it is.
func (c *Client) Raw(ctx context.Context, path string) ([]byte, error) {
	var raw []byte
	err := c.do(ctx, http.MethodGet, path, "", nil, &raw)
	return raw, err
}

func (c *Client) do(ctx context.Context, method, path, key string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.addr+path, body)
	if err != nil {
		return fmt.Errorf("address %q: %w", c.addr, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w at %s: %w; is it running, and is PERF_ADDR right?", ErrUnreachable, c.addr, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode >= 300 {
		return problem(resp, raw)
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("answer of %s is not what this version expects: %w", path, err)
	}
	return nil
}

func problem(resp *http.Response, raw []byte) error {
	p := &Problem{}
	if json.Unmarshal(raw, p) != nil || p.Status == 0 {
		p = &Problem{Status: resp.StatusCode, Title: resp.Status, Detail: strings.TrimSpace(string(raw))}
	}
	return p
}

// Events calls f for each event after the log index since, until ctx ends, the stream does or f
// returns an error. It returns the last index seen.
func (c *Client) Events(ctx context.Context, since uint64, f func(api.Event) error) (uint64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.addr+"/events?since="+strconv.FormatUint(since, 10), nil)
	if err != nil {
		return since, fmt.Errorf("address %q: %w", c.addr, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return since, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.addr, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		return since, problem(resp, raw)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		var e api.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Text == "" {
			continue // a comment, or the note that older events are gone
		}
		since = e.Index
		if err := f(e); err != nil {
			return since, err
		}
	}
	return since, lines.Err()
}

// Wait polls until done answers true or an error, or ctx ends.
func Wait(ctx context.Context, every time.Duration, done func(context.Context) (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if ok, err := done(ctx); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// Query builds a path with query parameters, leaving out empty ones.
func Query(path string, params map[string]string) string {
	q := url.Values{}
	for k, v := range params {
		if v != "" {
			q.Set(k, v)
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}
