package probation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/scrape"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// HTTPProber asks an engine over HTTP, the way its adapter describes.
type HTTPProber struct {
	base    string
	probes  func() *enginev1.Probes
	client  *http.Client
	sources []func(context.Context) (n int, known bool)
}

const (
	defaultHealthTimeout = 5 * time.Second
	tokenTimeout         = 30 * time.Second
	loadTimeout          = 2 * time.Second
	answerLimit          = 1 << 20 // bytes of an answer that are read
)

// NewHTTPProber returns a prober of the engine at base, such as http://127.0.0.1:8000. probes is
// asked each time, since an adapter knows more once the engine serves; nil means not described yet,
// and then the usual health path is asked. sources tell the requests in
// flight besides the engine's own load endpoint: its metrics, the wire. A drain has ended when all
// that know say zero.
func NewHTTPProber(base string, probes func() *enginev1.Probes, sources ...func(context.Context) (n int, known bool)) *HTTPProber {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}
	return &HTTPProber{base: strings.TrimSuffix(base, "/"), probes: probes, client: &http.Client{Transport: transport}, sources: sources}
}

// Health asks once. An engine that cannot be asked is healthy: its process is watched by others.
func (p *HTTPProber) Health(ctx context.Context) (Health, string) {
	probes := p.probes()
	if probes == nil {
		probes = &enginev1.Probes{HealthPath: "/health"}
	}
	if probes.GetHealthPath() == "" {
		return Healthy, ""
	}
	timeout := probes.GetHealthTimeout().AsDuration()
	if timeout <= 0 {
		timeout = defaultHealthTimeout
	}
	status, _, err := p.ask(ctx, timeout, http.MethodGet, probes.GetHealthPath(), "")
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut, fmt.Sprintf("%s did not answer within %v", probes.GetHealthPath(), timeout)
	case err != nil:
		return Refused, fmt.Sprintf("%s cannot be asked: %v", probes.GetHealthPath(), err)
	case status != http.StatusOK:
		return Dead, fmt.Sprintf("%s answered %d", probes.GetHealthPath(), status)
	}
	return Healthy, ""
}

// ServeToken has the engine generate what the adapter's probe prompt asks for.
func (p *HTTPProber) ServeToken(ctx context.Context) (Token, string) {
	probes := p.probes()
	if probes.GetTokenPath() == "" {
		return TokenServed, ""
	}
	status, body, err := p.ask(ctx, tokenTimeout, http.MethodPost, probes.GetTokenPath(), probes.GetTokenBody())
	if err != nil {
		return TokenFailed, err.Error()
	}
	return judgeToken(status, body, probes.GetTokenTextPointer())
}

// judgeToken reads the answer to the probe prompt.
func judgeToken(status int, body []byte, pointer string) (Token, string) {
	if status != http.StatusOK {
		return TokenFailed, fmt.Sprintf("status %d: %.200s", status, body)
	}
	var answer any
	if err := json.Unmarshal(body, &answer); err != nil {
		if bytes.Contains(body, []byte("NaN")) { // not JSON, but what Python writes for it
			return TokenNaN, "NaN in the answer"
		}
		return TokenFailed, "the answer is not JSON: " + err.Error()
	}
	value, err := lookup(answer, pointer)
	if err != nil {
		return TokenFailed, err.Error()
	}
	generated, ok := value.(string)
	switch {
	case !ok:
		return TokenFailed, fmt.Sprintf("%s is not a text", pointer)
	case generated == "":
		return TokenEmpty, "an empty text"
	case strings.EqualFold(strings.TrimSpace(generated), "nan"):
		return TokenNaN, "the text is NaN"
	}
	return TokenServed, ""
}

// InFlight is the largest count of all sources that know.
func (p *HTTPProber) InFlight(ctx context.Context) (n int, known bool) {
	for _, source := range append([]func(context.Context) (int, bool){p.load}, p.sources...) {
		if count, ok := source(ctx); ok {
			n, known = max(n, count), true
		}
	}
	return n, known
}

// load asks the engine's own load endpoint.
func (p *HTTPProber) load(ctx context.Context) (n int, known bool) {
	probes := p.probes()
	if probes.GetLoadPath() == "" {
		return 0, false
	}
	status, body, err := p.ask(ctx, loadTimeout, http.MethodGet, probes.GetLoadPath(), "")
	if err != nil || status != http.StatusOK {
		return 0, false
	}
	at := scrape.LoadPointers{
		Running: probes.GetLoadRunningPointer(), Waiting: probes.GetLoadWaitingPointer(), InFlight: probes.GetLoadInFlightPointer(),
	}
	load, err := scrape.ParseLoad(body, at)
	count, told := load.Requests()
	if err != nil || !told || count > 1e9 || at.Running != "" && load.Running == nil || at.Waiting != "" && load.Waiting == nil {
		return 0, false
	}
	return int(count), true
}

func (p *HTTPProber) ask(ctx context.Context, timeout time.Duration, method, path, body string) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("X-Perf-Synthetic", "1") // no user waits for it: agent/probe leaves it out
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	return resp.StatusCode, answer, err
}

// lookup follows an RFC 6901 JSON pointer.
func lookup(value any, pointer string) (any, error) {
	if pointer == "" {
		return value, nil
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		part = unescape.Replace(part)
		var ok bool
		switch parent := value.(type) {
		case map[string]any:
			value, ok = parent[part]
		case []any:
			if i, err := strconv.Atoi(part); err == nil && i >= 0 && i < len(parent) {
				value, ok = parent[i], true
			}
		}
		if !ok {
			return nil, fmt.Errorf("the answer has no %s", pointer)
		}
	}
	return value, nil
}

var _ Prober = (*HTTPProber)(nil)
