package scrape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// MaxBody bounds a page. The largest genuine pages are about 200 KB.
const MaxBody = 16 << 20

// accept asks for the plain text format, and takes what a front end that only speaks OpenMetrics
// answers with. OpenMetrics must not be named, however low its weight: Python's client library then
// prefers it and, as SGLang has it do, writes the names with underscores for colons.
const accept = "text/plain;version=0.0.4,*/*;q=0.1"

// ErrNotMetrics is returned when the address answers with something that is no metrics page.
var ErrNotMetrics = errors.New("the answer is not a metrics page")

// ErrTooLarge is returned for a body over MaxBody.
var ErrTooLarge = fmt.Errorf("the answer is larger than %d MiB", MaxBody>>20)

// Config of a Client.
type Config struct {
	MetricsURL string
	// LoadURL may be empty: the engine has no load endpoint.
	LoadURL string
	Load    LoadPointers
	// Timeout of one request.
	Timeout time.Duration
	// Series names the families to keep; empty keeps all.
	Series []string
}

// Client fetches one engine's pages, one after the other. Not safe for concurrent use.
type Client struct {
	cfg    Config
	http   *http.Client
	parser *Parser
	body   bytes.Buffer
}

// New returns a client. transport may be shared between clients; nil means the default one.
func New(cfg Config, transport http.RoundTripper) *Client {
	return &Client{
		cfg:    cfg,
		http:   &http.Client{Transport: transport, Timeout: cfg.Timeout},
		parser: NewParser(cfg.Series),
	}
}

// Fetch gets one page and, where the engine has it, the load endpoint's counts. A load endpoint
// that does not answer is no error: the page's own gauges serve.
func (c *Client) Fetch(ctx context.Context) (*Page, error) {
	began := time.Now()
	kind, err := c.get(ctx, c.cfg.MetricsURL)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", c.cfg.MetricsURL, err)
	}
	if !isMetrics(kind) {
		return nil, fmt.Errorf("scrape %s: %w but %q", c.cfg.MetricsURL, ErrNotMetrics, kind)
	}
	page := &Page{}
	page.Families, page.Dropped = c.parser.Parse(c.body.Bytes())
	page.At, page.Took = time.Now(), time.Since(began)
	if c.cfg.LoadURL != "" {
		if _, err := c.get(ctx, c.cfg.LoadURL); err == nil {
			page.Load, _ = ParseLoad(c.body.Bytes(), c.cfg.Load) // nil when it cannot be read
		}
	}
	return page, nil
}

// get leaves the body of url in c.body and returns its content type.
func (c *Client) get(ctx context.Context, url string) (kind string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", accept)
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
		return "", fmt.Errorf("the engine answered %s", resp.Status)
	}
	c.body.Reset()
	if c.body.Cap() > 1<<20 {
		c.body = bytes.Buffer{} // one huge page must not stay in memory for ever
	}
	n, err := c.body.ReadFrom(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return "", err
	}
	if n > MaxBody {
		return "", ErrTooLarge
	}
	return resp.Header.Get("Content-Type"), nil
}

// isMetrics accepts the two text formats and, as some front ends send none, a missing type.
func isMetrics(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == "text/plain" || kind == "application/openmetrics-text")
}
