package probation

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

func probes() *enginev1.Probes {
	return &enginev1.Probes{
		HealthPath: "/health", HealthTimeout: durationpb.New(200 * time.Millisecond),
		LoadPath: "/load", LoadRunningPointer: "/loads/0/running", LoadWaitingPointer: "/loads/0/waiting",
		TokenPath: "/v1/completions", TokenBody: `{"prompt":"1"}`, TokenTextPointer: "/choices/0/text",
	}
}

func TestHealth(t *testing.T) {
	slow := make(chan struct{})
	cases := []struct {
		name   string
		answer http.HandlerFunc
		want   Health
	}{
		{"well", func(http.ResponseWriter, *http.Request) {}, Healthy},
		{"dead", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, Dead},
		{"slower than a second opinion, within the adapter's timeout", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
			}
		}, Healthy},
		{"hangs", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-slow:
			case <-r.Context().Done():
			}
		}, TimedOut},
		{"breaks off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Refused},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			if got, why := NewHTTPProber(server.URL, probes).Health(t.Context()); got != c.want || got != Healthy && why == "" {
				t.Errorf("%v, %q", got, why)
			}
		})
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	if got, _ := NewHTTPProber(gone.URL, probes).Health(t.Context()); got != Refused {
		t.Errorf("no engine: %v", got)
	}
	none := func() *enginev1.Probes { return &enginev1.Probes{} }
	if got, _ := NewHTTPProber(gone.URL, none).Health(t.Context()); got != Healthy {
		t.Errorf("cannot be asked: %v", got)
	}
	unknown := func() *enginev1.Probes { return nil }
	if got, _ := NewHTTPProber(gone.URL, unknown).Health(t.Context()); got != Refused {
		t.Errorf("not described yet and not there: %v", got)
	}
}

func TestServeToken(t *testing.T) {
	cases := []struct {
		name, answer string
		status       int
		want         Token
	}{
		{"text", `{"choices":[{"text":" 2"}]}`, 200, TokenServed},
		{"blank", `{"choices":[{"text":" "}]}`, 200, TokenServed},
		{"empty", `{"choices":[{"text":""}]}`, 200, TokenEmpty},
		{"NaN in the text", `{"choices":[{"text":" nan "}]}`, 200, TokenNaN},
		{"NaN as Python writes it", `{"choices":[{"text":"a","logprob":NaN}]}`, 200, TokenNaN},
		{"overloaded", `{"error":"queue full"}`, 503, TokenFailed},
		{"other shape", `{"generated_text":"a"}`, 200, TokenFailed},
		{"no text", `{"choices":[{"text":7}]}`, 200, TokenFailed},
		{"garbage", `<html>`, 200, TokenFailed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != `{"prompt":"1"}` || r.Method != http.MethodPost {
					w.WriteHeader(400)
					return
				}
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.answer)
			}))
			defer server.Close()
			if got, why := NewHTTPProber(server.URL, probes).ServeToken(t.Context()); got != c.want {
				t.Errorf("%v, %q", got, why)
			}
		})
	}
}

func TestInFlight(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"loads":[{"running":2,"waiting":1}]}`)
	}))
	defer server.Close()
	source := func(n int, known bool) func(context.Context) (int, bool) {
		return func(context.Context) (int, bool) { return n, known }
	}
	cases := []struct {
		name    string
		probes  func() *enginev1.Probes
		sources []func(context.Context) (int, bool)
		want    int
		known   bool
	}{
		{"engine", probes, nil, 3, true},
		{"the larger counts", probes, []func(context.Context) (int, bool){source(5, true)}, 5, true},
		{"both must say zero", probes, []func(context.Context) (int, bool){source(0, true)}, 3, true},
		{"one that does not know", probes, []func(context.Context) (int, bool){source(9, false)}, 3, true},
		{"nobody knows", func() *enginev1.Probes { return nil }, []func(context.Context) (int, bool){source(0, false)}, 0, false},
		{"of all ranks", func() *enginev1.Probes {
			return &enginev1.Probes{LoadPath: "/load", LoadRunningPointer: "/loads/*/running"}
		}, nil, 2, true},
		{"in one count", func() *enginev1.Probes {
			return &enginev1.Probes{LoadPath: "/load", LoadInFlightPointer: "/loads/0/waiting"}
		}, nil, 1, true},
		{"broken pointer", func() *enginev1.Probes { p := probes(); p.LoadWaitingPointer = "/x"; return p }, nil, 0, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if n, known := NewHTTPProber(server.URL, c.probes, c.sources...).InFlight(t.Context()); n != c.want || known != c.known {
				t.Errorf("%d, %v", n, known)
			}
		})
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(`{"choices":[{"text":"a"}]}`), "/choices/0/text")
	f.Add([]byte(`[]`), "/0")
	f.Add([]byte(`{"a~b":{"c/d":"x"}}`), "/a~0b/c~1d")
	f.Fuzz(func(t *testing.T, body []byte, pointer string) {
		if got, why := judgeToken(200, body, pointer); got != TokenServed && why == "" {
			t.Error("a fault without words")
		}
	})
}
