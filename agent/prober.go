package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// What is asked of an engine whose adapter says nothing about it.
const (
	defaultHealthPath    = "/health"
	defaultHealthTimeout = 5 * time.Second
	// tokenTimeout is generous: a busy engine queues the probe prompt like any other.
	tokenTimeout    = 30 * time.Second
	inFlightTimeout = 2 * time.Second
	maxProbeBody    = 1 << 20
)

// prober asks one engine over HTTP how it is, in the way its adapter describes.
type prober struct {
	url    string
	http   *http.Client
	probes func() *engine.Probes // nil until the engine is described
	source *collect.Engine
}

var _ probation.Prober = (*prober)(nil)

// Health asks the health endpoint, once.
func (p *prober) Health(ctx context.Context) (probation.Health, string) {
	path, limit := defaultHealthPath, defaultHealthTimeout
	if d := p.probes(); d.GetHealthPath() != "" {
		path = d.GetHealthPath()
		if t := d.GetHealthTimeout().AsDuration(); t > 0 {
			limit = t
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	code, _, err := p.ask(ctx, http.MethodGet, path, "")
	switch {
	case err == nil && code/100 == 2:
		return probation.Healthy, ""
	case err == nil:
		return probation.Dead, fmt.Sprintf("its %s answers %d", path, code)
	case timedOut(err):
		return probation.TimedOut, fmt.Sprintf("its %s has not answered for %v", path, limit)
	}
	return probation.Refused, fmt.Sprintf("its %s cannot be reached: %v", path, errors.Unwrap(err))
}

// ServeToken has the engine generate a token and looks at what comes.
func (p *prober) ServeToken(ctx context.Context) (probation.Token, string) {
	d := p.probes()
	if d.GetTokenPath() == "" {
		return probation.TokenServed, "" // this engine cannot be asked
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	code, body, err := p.ask(ctx, http.MethodPost, d.GetTokenPath(), d.GetTokenBody())
	switch {
	case err != nil:
		return probation.TokenFailed, fmt.Sprintf("the probe prompt was not answered: %v", err)
	case code/100 != 2:
		return probation.TokenFailed, fmt.Sprintf("the probe prompt was answered with %d: %s", code, firstLine(body))
	}
	return judgeToken(body, d.GetTokenTextPointer())
}

// judgeToken looks at the answer to the probe prompt. NaN is no JSON, so an engine that writes it
// makes the whole answer unreadable.
func judgeToken(body []byte, pointer string) (probation.Token, string) {
	var doc any
	if err := json.Unmarshal(body, &doc); err != nil {
		if bytes.Contains(body, []byte("NaN")) {
			return probation.TokenNaN, "the probe prompt was answered with NaN"
		}
		return probation.TokenFailed, "the answer to the probe prompt is no JSON: " + firstLine(body)
	}
	found, _ := scrape.Find(doc, pointer)
	if text, ok := found.(string); !ok || text == "" {
		return probation.TokenEmpty, "the probe prompt was answered without text"
	}
	return probation.TokenServed, ""
}

// InFlight reads the engine's own counts.
func (p *prober) InFlight(ctx context.Context) (n int, known bool) {
	ctx, cancel := context.WithTimeout(ctx, inFlightTimeout)
	defer cancel()
	return p.source.InFlight(ctx)
}

func (p *prober) ask(ctx context.Context, method, path, body string) (code int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	if err != nil {
		return 0, nil, fmt.Errorf("read answer: %w", err)
	}
	return resp.StatusCode, answer, nil
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

func firstLine(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	return line
}
