//go:build real

package real

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"testing"
	"time"
)

// wireClient speaks HTTP/1.1 by hand on one connection, to note when each byte of an answer had been
// read and which chunks came.
type wireClient struct {
	t    testing.TB
	host string // and port
	conn net.Conn
}

// wireAnswer is what the client saw of one request.
type wireAnswer struct {
	client            netip.AddrPort
	sent, first, last time.Time // first: of the body
	status            int
	chunks            [][]byte // of the body, less the last, empty one
	cut               bool     // the connection ended before the answer did
}

func newWireClient(t testing.TB, base string) *wireClient {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	c := &wireClient{t: t, host: u.Host}
	t.Cleanup(c.close)
	return c
}

func (c *wireClient) close() {
	if c.conn != nil {
		_ = c.conn.Close() // all was read
		c.conn = nil
	}
}

var (
	headersEnd = []byte("\r\n\r\n")
	chunksEnd  = []byte("\r\n0\r\n\r\n")
)

// post sends a request and reads its whole answer, which must be in chunks or empty.
func (c *wireClient) post(path string, body any) (a wireAnswer, err error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return a, err
	}
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", c.host); err != nil {
			return a, err
		}
	}
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, c.host, len(raw), raw)
	a.client = netip.MustParseAddrPort(c.conn.LocalAddr().String())
	a.sent = time.Now()
	if _, err := c.conn.Write(request); err != nil {
		return a, err
	}
	all, err := c.read(&a)
	if err != nil {
		return a, err
	}
	return a, a.parse(all)
}

// read takes an answer to its end, or to that of the connection.
func (c *wireClient) read(a *wireAnswer) (all []byte, err error) {
	buf, body := make([]byte, 64<<10), -1
	for {
		n, err := c.conn.Read(buf)
		now := time.Now()
		all = append(all, buf[:n]...)
		if body < 0 {
			if i := bytes.Index(all, headersEnd); i >= 0 {
				body = i + len(headersEnd)
			}
		}
		if body >= 0 && len(all) > body && a.first.IsZero() {
			a.first = now
		}
		a.last = now
		switch {
		case bytes.HasSuffix(all, chunksEnd):
			return all, nil
		case err != nil && body < 0:
			return nil, fmt.Errorf("read an answer: %w", err)
		case err != nil:
			a.cut = true
			c.close()
			return all, nil
		}
	}
}

// parse takes the status and the chunks.
func (a *wireAnswer) parse(all []byte) (err error) {
	head, body, _ := bytes.Cut(all, headersEnd)
	if len(head) < 12 {
		return fmt.Errorf("an answer of %d bytes", len(all))
	}
	if a.status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return err
	}
	for len(body) > 0 {
		size, rest, whole := bytes.Cut(body, []byte("\r\n"))
		n, err := strconv.ParseInt(string(size), 16, 32)
		switch {
		case !whole || err == nil && int(n)+2 > len(rest) && a.cut:
			return nil
		case err != nil:
			return fmt.Errorf("the size of a chunk: %w", err)
		case n == 0:
			return nil
		case int(n)+2 > len(rest):
			return fmt.Errorf("a chunk of %d bytes, %d left", n, len(rest))
		}
		a.chunks = append(a.chunks, rest[:n])
		body = rest[n+2:]
	}
	return nil
}

// text counts chunks that begin with an event that is neither an error nor the end.
func (a *wireAnswer) text() (n int) {
	for _, c := range a.chunks {
		data, ok := bytes.CutPrefix(c, []byte("data: "))
		if ok && !bytes.HasPrefix(data, []byte("[DONE]")) && !bytes.HasPrefix(data, []byte(`{"error":`)) && !bytes.HasPrefix(data, []byte(`{"error" `)) {
			n++
		}
	}
	return n
}

// usage is the engine's own count of the answer's tokens; 0 where it tells of none.
func (a *wireAnswer) usage() (tokens int) {
	for _, c := range a.chunks {
		for event := range bytes.SplitSeq(c, []byte("\n\n")) {
			var e struct {
				Usage *struct {
					CompletionTokens int `json:"completion_tokens"`
				} `json:"usage"`
			}
			if data, ok := bytes.CutPrefix(event, []byte("data: ")); ok && json.Unmarshal(data, &e) == nil && e.Usage != nil {
				tokens = e.Usage.CompletionTokens
			}
		}
	}
	return tokens
}

// failed says that an event of the answer told of an error.
func (a *wireAnswer) failed() bool {
	for _, c := range a.chunks {
		if bytes.Contains(c, []byte(`data: {"error"`)) {
			return true
		}
	}
	return false
}
