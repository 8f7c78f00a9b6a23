package scrape

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const mebibyte = 1 << 20

// allocated is what f allocates in all, and what stays once connections that were given up have ended, in
// bytes.
func allocated(f func()) (total, kept int64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	total = int64(after.TotalAlloc - before.TotalAlloc)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		runtime.ReadMemStats(&after)
		if kept = int64(after.HeapAlloc) - int64(before.HeapAlloc); kept <= mebibyte || time.Now().After(deadline) {
			return total, kept
		}
	}
}

// TestHugePage: of a page of 50 MB no more is read than the bound, little of that stays, and the next
// page serves.
func TestHugePage(t *testing.T) {
	const size = 50 * mebibyte
	for _, c := range []struct {
		name     string
		announce bool
		atMost   int64 // allocated
	}{{"announced", true, mebibyte}, {"without its length", false, 10 * MaxBody}} {
		t.Run(c.name, func(t *testing.T) {
			var huge atomic.Bool
			huge.Store(true)
			var sent atomic.Int64
			chunk := []byte(strings.Repeat("a{b=\"c\"} 1\n", mebibyte/11))
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				if !huge.Load() {
					_, _ = io.WriteString(w, "a 5\n")
					return
				}
				if c.announce {
					w.Header().Set("Content-Length", fmt.Sprint(size/mebibyte*len(chunk)))
				}
				for range size / mebibyte {
					n, err := w.Write(chunk)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
			client := New(Config{MetricsURL: url, Timeout: time.Minute, Series: []string{"a"}}, nil)
			total, kept := allocated(func() {
				if _, err := client.Fetch(t.Context()); !errors.Is(err, ErrTooLarge) {
					t.Errorf("error %v, want %v", err, ErrTooLarge)
				}
			})
			if total > c.atMost || kept > mebibyte {
				t.Errorf("allocated %d bytes, %d stayed; at most %d and %d may", total, kept, c.atMost, mebibyte)
			}
			if n := sent.Load(); n > size*3/4 {
				t.Errorf("%d bytes were taken", n)
			}
			huge.Store(false)
			page, err := client.Fetch(t.Context())
			if err != nil || len(page.Families) != 1 {
				t.Errorf("the next page: %+v, %v", page, err)
			}
		})
	}
}

// TestFloodOfSeries: a family with more label sets than any engine has is dropped whole, counted line by
// line, and takes little memory; the others of the page serve.
func TestFloodOfSeries(t *testing.T) {
	var b strings.Builder
	b.WriteString("# TYPE good counter\ngood 7\n# TYPE h histogram\n")
	lines := 0
	for ; b.Len() < MaxBody-200; lines++ {
		fmt.Fprintf(&b, "h_bucket{r=\"%d\",le=\"1\"} 1\n", lines)
	}
	b.WriteString("after 8\n")
	body := []byte(b.String())
	p := NewParser([]string{"good", "h", "after"})
	for range 2 { // buffers are used again
		total, kept := allocated(func() {
			families, dropped := p.Parse(body)
			if got := values(families); len(got) != 2 || got["good"][0] != 7 || got["after"][0] != 8 {
				t.Errorf("families %v", got)
			}
			if dropped != lines {
				t.Errorf("%d lines dropped, want %d", dropped, lines)
			}
		})
		if total > 2*MaxBody || kept > mebibyte {
			t.Errorf("allocated %d bytes, %d stayed", total, kept)
		}
	}
}

// TestFloodOfFamilies: a page may have many long families, but not without end.
func TestFloodOfFamilies(t *testing.T) {
	const families, lines = 20, maxFamilyLines / 2
	var b strings.Builder
	for f := range families {
		for i := range lines {
			fmt.Fprintf(&b, "f%d{i=\"%d\"} 1\n", f, i)
		}
	}
	got, dropped := NewParser(nil).Parse([]byte(b.String()))
	samples := 0
	for _, f := range got {
		samples += len(f.Metric)
	}
	if samples != maxPageLines || dropped != families*lines-maxPageLines {
		t.Errorf("%d samples, %d dropped of %d", samples, dropped, families*lines)
	}
}

// raw answers every connection with these bytes and then holds it.
func raw(t *testing.T, answer string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	whole := []byte(answer)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 4096)) // the request
				_, _ = conn.Write(whole)
				_, _ = io.Copy(io.Discard, conn) // until the client gives up
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestBadAnswers: what is no answer is an error within the time that one may take, and little of it is
// ever in memory.
func TestBadAnswers(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
	for name, answer := range map[string]string{
		"stalls in its body":        head + "Content-Length: 100\r\n\r\na 5\n",
		"stalls in a chunk":         head + "Transfer-Encoding: chunked\r\n\r\n40\r\na 5\n",
		"stalls in its head":        head,
		"garbage":                   "\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n",
		"garbage for a length":      head + "Content-Length: -9\r\n\r\n",
		"garbage for a chunk":       head + "Transfer-Encoding: chunked\r\n\r\nzz\r\na 5\n",
		"a head without end":        "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("y", 1000)+"\r\n", 12_000),
		"not compressed as it says": head + "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
	} {
		t.Run(name, func(t *testing.T) {
			client := New(Config{MetricsURL: raw(t, answer), Timeout: 300 * time.Millisecond}, &http.Transport{DisableKeepAlives: true})
			began := time.Now()
			total, kept := allocated(func() {
				if page, err := client.Fetch(t.Context()); err == nil {
					t.Errorf("taken for a page: %+v", page)
				}
			})
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if total > 32*mebibyte || kept > mebibyte {
				t.Errorf("allocated %d bytes, %d stayed", total, kept)
			}
		})
	}
}
