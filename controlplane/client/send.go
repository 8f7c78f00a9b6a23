package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Send posts content of a type as it is, and reads the answer, JSON, into out.
func (c *Client) Send(ctx context.Context, path, key, contentType string, content []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.addr+path, bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("address %q: %w", c.addr, err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Idempotency-Key", key)
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
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("answer of %s is not what this version expects: %w", path, err)
	}
	return nil
}
