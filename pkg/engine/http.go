package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// askTimeout keeps Describe short before an engine that accepts connections and does not answer
// yet, as vLLM does while it loads.
const askTimeout = 2 * time.Second

// maxAnswer bounds what is read from an engine.
const maxAnswer = 8 << 20

// StatusError is an HTTP answer other than 200.
type StatusError struct{ Code int }

func (e *StatusError) Error() string { return fmt.Sprintf("HTTP status %d", e.Code) }

// asker talks to the engine directly: no proxy from the environment, no redirects to elsewhere, no
// idle connection left open, since an adapter holds no state between calls.
var asker = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Get fetches a path of the engine, within two seconds. An answer other than 200 is a *StatusError.
func Get(ctx context.Context, baseURL, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := asker.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %w", path, &StatusError{Code: resp.StatusCode})
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return body, nil
}

// GetJSON fetches a path and reads its JSON answer into v.
func GetJSON(ctx context.Context, baseURL, path string, v any) error {
	body, err := Get(ctx, baseURL, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}
