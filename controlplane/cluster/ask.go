package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Questions that servers ask each other on the Raft port.
const (
	askState     = "state"
	askReadIndex = "read_index"
)

// maxMessage bounds a question or an answer.
const maxMessage = 64 << 10

type question struct {
	Ask string `json:"ask"`
}

// answer to either question; state is always filled in.
type answer struct {
	Status
	// Known: the server has a log or a snapshot.
	Known bool `json:"known"`
	// Peers is the fingerprint of the peers it is configured with.
	Peers string `json:"peers"`
	// Index to wait for, of a read_index.
	Index     uint64 `json:"index"`
	NotLeader bool   `json:"not_leader"`
	Error     string `json:"error,omitempty"`
}

// ask puts one question to the server at a Raft address.
func (n *Node) ask(ctx context.Context, addr string, q question) (answer, error) {
	timeout := greetingTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	if timeout <= 0 {
		return answer{}, context.DeadlineExceeded
	}
	conn, err := n.stream.dial(addr, streamAsk, timeout)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return answer{}, fmt.Errorf("send question: %w", err)
	}
	var a answer
	if err := json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&a); err != nil {
		return answer{}, fmt.Errorf("read answer: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// answer serves one question; the connection has a deadline. It may come before Open is through.
func (n *Node) answer(conn net.Conn, closed <-chan struct{}) {
	select {
	case <-n.opened:
	case <-closed:
		return
	}
	var q question
	if err := json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&q); err != nil {
		return // not one of us
	}
	_ = json.NewEncoder(conn).Encode(n.answerTo(q)) // the asker may be gone
}

func (n *Node) answerTo(q question) answer {
	status := n.Status()
	a := answer{Status: status, Known: status.LastIndex > 0, Peers: fingerprint(n.cfg.Peers)}
	if q.Ask != askReadIndex {
		return a
	}
	ctx, cancel := context.WithTimeout(context.Background(), greetingTimeout)
	defer cancel()
	index, err := n.leaderReadIndex(ctx)
	switch {
	case errors.Is(err, ErrNotLeader):
		a.NotLeader = true
	case err != nil:
		a.Error = err.Error()
	}
	a.Index = index
	return a
}
