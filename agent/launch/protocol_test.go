package launch

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// answering is a launcher that gives one answer to everything.
type answering struct {
	status int
	body   string
}

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a.body))}, nil
}

// FuzzProtocol: whatever a client sends, the launcher refuses it in words or takes a spec that can be
// run; whatever a launcher answers, its client returns that or an error.
func FuzzProtocol(f *testing.F) {
	f.Add(`{"spec":{"argv":["a"],"fingerprint":"x","grace_ns":1}}`, "7", 200, `{"state":"running"}`)
	f.Add(`{"grace_ns":-1}`, "-1", 409, `{"error":"no","code":"running"}`)
	f.Add(`{"spec":{"argv":[""]}}{`, "18446744073709551616", 500, `{`)
	f.Fuzz(func(t *testing.T, body, since string, status int, answer string) {
		var spec specRequest
		if asked(t, body, &spec) && spec.Spec.Validate() == nil && (len(spec.Spec.Argv) == 0 || spec.Spec.Grace < 0) {
			t.Errorf("spec %+v is called good", spec.Spec)
		}
		asked(t, body, &stopRequest{})

		l := &Launcher{tail: &tail{}}
		w := httptest.NewRecorder()
		l.serveLog(w, httptest.NewRequest(http.MethodGet, "/v1/log?since="+url.QueryEscape(since), nil))
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("since=%q is answered %d", since, w.Code)
		}

		c := &Client{http: &http.Client{Transport: answering{status, answer}}}
		if _, err := c.Status(t.Context()); err == nil && status != http.StatusOK {
			t.Errorf("answer %d %q is no error", status, answer)
		}
	})
}

// asked reads a request's body; one that cannot be read is refused as what it is.
func asked(t *testing.T, body string, into any) bool {
	w := httptest.NewRecorder()
	if read(w, httptest.NewRequest(http.MethodPost, "/v1/x", strings.NewReader(body)), into) {
		return true
	}
	var f failure
	c := &Client{http: &http.Client{Transport: answering{w.Code, w.Body.String()}}}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrInvalidSpec) {
		t.Errorf("%q is refused by %d %+v: %v", body, w.Code, f, err)
	}
	return false
}

// FuzzTail: whatever a former launcher left as its log, what is written now can be read, and no more
// than the ring holds is ever returned.
func FuzzTail(f *testing.F) {
	whole := make([]byte, tailHeader+TailBytes)
	copy(whole, tailMagic[:])
	f.Add(whole[:40], "line\n", uint64(0), uint64(0))
	f.Add([]byte{}, "line\n", uint64(1)<<63, uint64(1)<<63-1)
	f.Add([]byte("perftail"), "\xff", ^uint64(0)-TailBytes, ^uint64(0))
	path := filepath.Join(f.TempDir(), "tail")
	f.Fuzz(func(t *testing.T, begin []byte, line string, end, since uint64) {
		file := make([]byte, tailHeader+TailBytes)
		copy(file, begin)
		if len(begin) < tailHeader { // as this package writes it, but for the count
			copy(file, tailMagic[:])
			for i := range 8 {
				file[8+i] = byte(end >> (56 - 8*i))
			}
		}
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		kept, err := openTail(path)
		if err != nil {
			t.Fatal(err)
		}
		defer kept.close()
		before := kept.offset()
		_, _ = kept.Write([]byte(line)) // never fails
		for _, from := range []uint64{since, before, 0} {
			if l := kept.since(from); len(l.Text) > 3*TailBytes || !utf8.ValidString(l.Text) {
				t.Errorf("since %d: %d bytes", from, len(l.Text))
			}
		}
		if got := kept.since(before).Text; len(line) <= TailBytes && kept.offset() > before && got != strings.ToValidUTF8(line, "\uFFFD") {
			t.Errorf("wrote %q at %d, read %q", line, before, got)
		}
	})
}
