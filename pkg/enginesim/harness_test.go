package enginesim

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// process is a simulated engine running in this process.
type process struct {
	t      *testing.T
	url    string
	out    *buffer
	cancel context.CancelFunc
	exit   chan int
}

// buffer collects output from several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// command is the engine's own command line for a port.
func command(dialect, port string, flags ...string) []string {
	switch dialect {
	case "vllm":
		return append([]string{"vllm", "serve", "m", "--host", "127.0.0.1", "--port", port}, flags...)
	case "sglang":
		return append([]string{"python", "-m", "sglang.launch_server", "--model-path", "m", "--enable-metrics", "--port", port}, flags...)
	}
	return append([]string{"text-generation-launcher", "--model-id", "m", "--hostname", "127.0.0.1", "--port", port}, flags...)
}

// launch starts an engine and does not wait for it.
func launch(t *testing.T, dialect string, simOptions []string, flags ...string) *process {
	t.Helper()
	port := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{t: t, url: "http://127.0.0.1:" + port, out: &buffer{}, cancel: cancel, exit: make(chan int, 1)}
	args := append([]string{"--dialect", dialect, "--sim-drain-poll", "50ms"}, simOptions...)
	args = append(append(args, "--"), command(dialect, port, flags...)...)
	go func() { p.exit <- Main(ctx, args, p.out, p.out) }()
	t.Cleanup(func() { cancel(); p.wait() })
	return p
}

// start starts an engine without start-up time and waits until it serves.
func start(t *testing.T, dialect string, flags ...string) *process {
	t.Helper()
	p := launch(t, dialect, []string{"--sim-start-scale", "0"}, flags...)
	p.until("the engine answers", func() bool {
		resp, err := http.Get(p.url + "/v1/models")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK && (dialect != "sglang" || strings.Contains(p.out.String(), "fired up"))
	})
	return p
}

// stop sends what SIGTERM sends and returns the exit code.
func (p *process) stop() int {
	p.cancel()
	return p.wait()
}

func (p *process) wait() int {
	select {
	case code := <-p.exit:
		p.exit <- code
		http.DefaultClient.CloseIdleConnections()
		return code
	case <-time.After(10 * time.Second):
		p.t.Fatalf("engine does not end; its output:\n%s", p.out)
		return -1
	}
}

func (p *process) until(what string, yes func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !yes() {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain until %s; output:\n%s", what, p.out)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (p *process) get(path string) (int, string) {
	p.t.Helper()
	resp, err := http.Get(p.url + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func (p *process) post(path, body string) (int, string) {
	p.t.Helper()
	resp, err := http.Post(p.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// event of a stream with the time it came.
type event struct {
	data string
	at   time.Duration
}

// stream posts a body and returns the events; err is the stream's end, nil when it was whole.
func (p *process) stream(ctx context.Context, path, body string) (status int, events []event, err error) {
	began := time.Now()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, strings.NewReader(body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events = append(events, event{data, time.Since(began)})
		}
	}
	return resp.StatusCode, events, lines.Err()
}

// completion is a body for /v1/completions with a prompt of so many words.
func completion(words, tokens int, stream bool) string {
	return fmt.Sprintf(`{"prompt":%q,"max_tokens":%d,"ignore_eos":true,"stream":%t,"stream_options":{"include_usage":true}}`,
		strings.Repeat("word ", words), tokens, stream)
}
