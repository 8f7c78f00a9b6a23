package loadtest

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// away is an address at which nobody listens.
func away(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// says answers 200 and counts.
func says(t *testing.T, n *atomic.Int64) string {
	t.Helper()
	return serve(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
}

// A dead engine whose sidecar still calls it ready costs no request: none has left.
func TestRefusedGoesToTheNext(t *testing.T) {
	for _, policy := range []Policy{RoundRobin, Random, LeastInFlight} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			b := newReplica(t)
			var asked atomic.Int64
			dead := Target{Name: "dead", URL: away(t), ReadyURL: says(t, &asked), API: OpenAICompletions}
			got := run(t, Config{Policy: policy, Targets: []Target{dead, b.target()}, Source: &every{n: 100, pause: 3 * time.Millisecond}})
			again := 0
			for _, r := range got {
				if r.Failed != "" || r.Target != b.url || r.Sent.Before(r.Intended) {
					t.Fatalf("record %+v", r)
				}
				again += r.Refused
			}
			if again == 0 || int64(again) > 2*asked.Load()+2 {
				t.Errorf("%d requests met the dead engine, which called itself ready %d times", again, asked.Load())
			}
		})
	}
}

func TestRefusedEverywhere(t *testing.T) {
	var asked atomic.Int64
	got := run(t, Config{
		Targets: []Target{{URL: away(t), ReadyURL: says(t, &asked), API: OpenAICompletions}}, Source: &every{n: 1},
		ReadyWait: 250 * time.Millisecond,
	})
	if r := got[0]; r.Failed != FailedConnect || r.Refused == 0 || r.Refused > 5 {
		t.Errorf("record %+v", r)
	}
}

// A stream that is cut has been a request: it is lost, not sent again, and so is a connection that is
// closed without an answer.
func TestWhatWasSentIsNotSentAgain(t *testing.T) {
	for want, broken := range map[string]http.HandlerFunc{
		FailedCut: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "data: {\"choices\":[{\"text\":\"a\"}]}\n\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		FailedConnect: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"http_500": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "cannot schedule new futures after shutdown", 500)
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			var posts, asked atomic.Int64
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				posts.Add(1)
				broken(w, r)
			})
			b := newReplica(t)
			got := run(t, Config{
				Targets: []Target{{Name: "broken", URL: url, ReadyURL: says(t, &asked), API: OpenAICompletions}, b.target()},
				Source:  &every{n: 40, pause: 2 * time.Millisecond},
			})
			lost := 0
			for _, r := range got {
				if r.Target == "broken" {
					if lost++; r.Failed != want || r.Refused != 0 {
						t.Errorf("record %+v, want %s", r, want)
					}
				} else if r.Failed != "" {
					t.Errorf("record %+v", r)
				}
			}
			if lost == 0 || int64(lost) != posts.Load() {
				t.Errorf("%d records of %d requests", lost, posts.Load())
			}
		})
	}
}

func TestHeader(t *testing.T) {
	seen := make(chan http.Header, 1)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		_, _ = io.WriteString(w, okStream)
	})
	for _, h := range []http.Header{nil, {Synthetic: {"1"}, "authorization": {"Bearer x"}}} {
		run(t, Config{Targets: []Target{{URL: url, API: OpenAICompletions}}, Source: &every{n: 1}, Header: h})
		got := <-seen
		if got.Get(Synthetic) != h.Get(Synthetic) || got.Get("Authorization") != "" != (h != nil) || got.Get("Content-Type") != "application/json" {
			t.Errorf("sent %v, want those of %v", got, h)
		}
	}
}
