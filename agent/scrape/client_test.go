package scrape

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestFetch(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/load" {
			_, _ = io.WriteString(w, `{"running":7,"waiting":1}`)
			return
		}
		w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
		_, _ = io.WriteString(w, "# TYPE a counter\na_total 5\n# EOF\n")
	})
	c := New(Config{
		MetricsURL: url + "/metrics", LoadURL: url + "/load", Load: LoadPointers{Running: "/running", Waiting: "/waiting"},
		Timeout: time.Second, Series: []string{"a_total"},
	}, nil)
	p, err := c.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := values(p.Families)["a_total"]; len(got) != 1 || got[0] != 5 {
		t.Errorf("a_total %v, want 5", got)
	}
	if p.Load == nil || *p.Load.Running != 7 || *p.Load.Waiting != 1 {
		t.Errorf("load %+v, want 7 running and 1 waiting", p.Load)
	}
	if p.At.IsZero() || p.Took <= 0 {
		t.Errorf("taken at %v in %v", p.At, p.Took)
	}
}

// Python's client library answers in OpenMetrics whenever the request names it, with any weight, and
// SGLang's pages then have underscores for colons in their names.
func TestFetchPrefersPlainText(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "openmetrics") {
			w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores")
			_, _ = io.WriteString(w, "# TYPE sglang:running gauge\nsglang_running 5\n# EOF\n")
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, "# TYPE sglang:running gauge\nsglang:running 5\n")
	})
	p, err := New(Config{MetricsURL: url + "/metrics", Timeout: time.Second, Series: []string{"sglang:running"}}, nil).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := values(p.Families)["sglang:running"]; len(got) != 1 || got[0] != 5 {
		t.Errorf("sglang:running %v, want 5", got)
	}
}

func TestFetchWithoutLoadEndpoint(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/load" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, "a 5\n")
	})
	p, err := New(Config{MetricsURL: url + "/metrics", LoadURL: url + "/load", Timeout: time.Second}, nil).Fetch(t.Context())
	if err != nil || p.Load != nil || len(p.Families) != 1 || !strings.Contains(p.LoadProblem, "404") {
		t.Errorf("page %+v, error %v; want one family and no load, and why", p, err)
	}
}

// TestFetchLoadAlone: an engine that refuses its page but answers its load endpoint is not silent.
func TestFetchLoadAlone(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/load" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"loads":[{"run":3,"usage":0.25},{"run":1,"usage":0.75}]}`)
	})
	p, err := New(Config{
		MetricsURL: url + "/metrics", LoadURL: url + "/load",
		Load: LoadPointers{Running: "/loads/*/run", KVUsage: "/loads/*/usage"}, Timeout: time.Second,
	}, nil).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p.Load == nil || *p.Load.Running != 4 || *p.Load.KVUsage != 0.5 || p.At.IsZero() || !strings.Contains(p.Problem, "404") || len(p.Families) != 0 {
		t.Errorf("page %+v, load %+v", p, p.Load)
	}
}

// TestFetchKnowsWhenTheAnswerBegan: a body that comes slowly is not younger than its first byte.
func TestFetchKnowsWhenTheAnswerBegan(t *testing.T) {
	sent := make(chan time.Time, 1)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "a 5\n")
		w.(http.Flusher).Flush()
		time.Sleep(100 * time.Millisecond)
		sent <- time.Now()
		_, _ = io.WriteString(w, "b 5\n")
	})
	p, err := New(Config{MetricsURL: url, Timeout: 5 * time.Second}, nil).Fetch(t.Context())
	if err != nil || len(p.Families) != 2 {
		t.Fatalf("page %+v, error %v", p, err)
	}
	if end := <-sent; !p.At.Before(end) {
		t.Errorf("the page is said to be of %v, its end was sent at %v", p.At, end)
	}
}

func TestFetchRefuses(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		is      error
		says    string
	}{
		{name: "a web page", is: ErrNotMetrics, says: "text/html", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
		}},
		{name: "not found", says: "404", handler: http.NotFound},
		{name: "endless", is: ErrTooLarge, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			chunk := strings.Repeat("a 1\n", 1<<18)
			for range 17 {
				if _, err := io.WriteString(w, chunk); err != nil {
					return
				}
			}
		}},
		{name: "silent", says: "Timeout", handler: func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, limit := serve(t, c.handler), time.Minute
			if c.name == "silent" {
				limit = 100 * time.Millisecond
			}
			_, err := New(Config{MetricsURL: url, Timeout: limit}, nil).Fetch(t.Context())
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v saying %q", err, c.is, c.says)
			}
		})
	}
}
