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

var errStatus = errors.New("the engine answered")

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

// Fetch gets one page and, where the engine has it, the load endpoint's counts. A load endpoint that
// does not answer is no error: the page's own gauges serve, and the page says so. Where the engine
// refuses its page but answers its load endpoint, the page holds the load alone, with the problem.
func (c *Client) Fetch(ctx context.Context) (*Page, error) {
	began := time.Now()
	page, err := c.page(ctx)
	if err != nil && !answered(err) {
		return nil, err
	}
	load, at, loadErr := c.load(ctx)
	switch {
	case err != nil && load == nil:
		return nil, err
	case err != nil:
		page = &Page{At: at, Problem: err.Error() + "; only its load endpoint is read"}
	case loadErr != nil:
		page.LoadProblem = loadErr.Error()
	}
	page.Load, page.Took = load, time.Since(began)
	return page, nil
}

// page reads the metrics page.
func (c *Client) page(ctx context.Context) (*Page, error) {
	kind, at, err := c.get(ctx, c.cfg.MetricsURL)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", c.cfg.MetricsURL, err)
	}
	if !isMetrics(kind) {
		return nil, fmt.Errorf("scrape %s: %w but %q", c.cfg.MetricsURL, ErrNotMetrics, kind)
	}
	p := &Page{At: at}
	p.Families, p.Dropped = c.parser.Parse(c.body.Bytes())
	p.Others = c.parser.Others()
	return p, nil
}

// load reads the load endpoint; nil without an error where there is none.
func (c *Client) load(ctx context.Context) (l *Load, at time.Time, err error) {
	if c.cfg.LoadURL == "" {
		return nil, time.Time{}, nil
	}
	_, at, err = c.get(ctx, c.cfg.LoadURL)
	if err == nil {
		l, err = ParseLoad(c.body.Bytes(), c.cfg.Load)
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read %s: %w", c.cfg.LoadURL, err)
	}
	return l, at, nil
}

// answered tells an engine that answers something else from one that does not answer.
func answered(err error) bool { return errors.Is(err, errStatus) || errors.Is(err, ErrNotMetrics) }

// get leaves the body of url in c.body and returns its content type and when the answer began: what
// it says is not younger than that.
func (c *Client) get(ctx context.Context, url string) (kind string, at time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", time.Time{}, err
	}
	req.Header.Set("Accept", accept)
	resp, err := c.http.Do(req)
	if err != nil {
		return "", time.Time{}, err
	}
	at = time.Now()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
		return "", time.Time{}, fmt.Errorf("%w %s", errStatus, resp.Status)
	}
	c.body.Reset()
	if c.body.Cap() > keptBytes {
		c.body = bytes.Buffer{} // one huge page must not stay in memory for ever
	}
	if resp.ContentLength > MaxBody {
		return "", time.Time{}, ErrTooLarge
	}
	n, err := c.body.ReadFrom(io.LimitReader(resp.Body, MaxBody+1))
	if err == nil && n > MaxBody {
		err = ErrTooLarge
	}
	if err != nil {
		c.body = bytes.Buffer{} // whatever came is of no use
		return "", time.Time{}, err
	}
	return resp.Header.Get("Content-Type"), at, nil
}

// isMetrics accepts the two text formats and, as some front ends send none, a missing type.
func isMetrics(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == "text/plain" || kind == "application/openmetrics-text")
}
