package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/cluster"
	"github.com/optiinfra/performance-agent/controlplane/telemetry/history"
)

// historian lets a leader learn what the other nodes remember of the time before it led.
type historian struct {
	past     *history.Head
	recorder *history.Recorder
	peers    func() []cluster.Peer
	self     string
	began    string // of this process: what other nodes have fetched of it they need not fetch again
	logger   *slog.Logger
}

// askEvery is how often a leader looks for nodes that have come back.
const askEvery = 30 * time.Second

// ServeHTTP answers GET /history/snapshot.
func (h historian) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", h.began)
	if r.Header.Get("If-None-Match") == h.began {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := h.past.Write(w); err != nil {
		h.logger.Warn("history not handed over", "error", err)
	}
}

// lead asks every other node once, and again when it was started anew, until ctx ends.
func (h historian) lead(ctx context.Context, _ uint64) error {
	known := map[string]string{}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		for _, p := range h.peers() {
			if p.ID == h.self || p.HTTPAddr == "" {
				continue
			}
			if err := h.ask(ctx, p, known); err != nil && ctx.Err() == nil {
				h.logger.Debug("history of another node not read", "node", p.ID, "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// ask a node for what it remembers, unless that is known.
func (h historian) ask(ctx context.Context, p cluster.Peer, known map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	addr := p.HTTPAddr
	if !strings.Contains(addr, "://") {
		addr = "http://" + addr
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, addr+"/history/snapshot", nil)
	if err != nil {
		return err
	}
	r.Header.Set("If-None-Match", known[p.ID])
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		return nil
	default:
		return fmt.Errorf("answer %s", resp.Status)
	}
	other, err := history.Read(resp.Body, history.Config{})
	if err != nil {
		return err
	}
	n, err := h.recorder.Adopt(ctx, other)
	if err != nil {
		return errors.Join(errors.New("this node did not take it in time"), err)
	}
	known[p.ID] = resp.Header.Get("ETag")
	h.logger.Info("history of another node adopted", "node", p.ID, "series", n)
	return nil
}
