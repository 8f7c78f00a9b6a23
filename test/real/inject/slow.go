package inject

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/optiinfra/performance-agent/agent/loadtest"
)

// slowBuffer is what the kernel may hold for a slow client: as little as it allows.
const slowBuffer = 2048

// SlowClients sends a source's requests when they are due to an OpenAI completions route at address
// (host:port) and reads the answers at bytesPerSecond each, until the source or ctx ends. It
// returns how many answers were begun.
func SlowClients(ctx context.Context, address, model string, from loadtest.Source, bytesPerSecond int) (begun int) {
	start := time.Now()
	var open sync.WaitGroup
	defer open.Wait()
	for ; ; begun++ {
		r, ok := from.Next()
		if !ok || !wait(ctx, time.Until(start.Add(r.Offset))) {
			return begun
		}
		open.Go(func() {
			_ = readSlowly(ctx, address, model, r, bytesPerSecond) // its end is the span's: answers are cut
		})
	}
}

func readSlowly(ctx context.Context, address, model string, r loadtest.Request, bytesPerSecond int) error {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, slowBuffer) })
		if control != nil {
			return control
		}
		return err
	}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := ask(ctx, conn, address, model, r); err != nil {
		return err
	}
	const tick = 100 * time.Millisecond
	buf := make([]byte, max(1, int(float64(bytesPerSecond)*tick.Seconds())))
	for wait(ctx, tick) {
		if _, err := conn.Read(buf); err != nil {
			return nil // the answer is complete: the engine closes
		}
	}
	return nil
}

// ask writes the request. The connection is for this answer alone.
func ask(ctx context.Context, conn net.Conn, address, model string, r loadtest.Request) error {
	body, err := json.Marshal(map[string]any{
		"model": model, "prompt": r.Prompt, "max_tokens": r.OutputTokens, "ignore_eos": true, "stream": true, "temperature": 0,
	})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	w := bufio.NewWriter(conn)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v1/completions", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	if err := req.Write(w); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	return w.Flush()
}
