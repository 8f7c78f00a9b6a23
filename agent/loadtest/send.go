package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// send carries out one request and fills in its record. Where no connection could be made, nothing
// has left: the request goes to the next target that is ready, as a balancer would send it. Nothing
// else is sent twice.
func (r *Runner) send(ctx context.Context, req Request, rec *Record) {
	body := r.prepare(req, rec.Number)
	wait, cancel := context.WithTimeout(ctx, r.cfg.ReadyWait)
	defer cancel()
	for {
		k, err := r.balancer.acquire(wait)
		if err != nil {
			r.notSent(ctx, rec)
			return
		}
		if err = r.attempt(ctx, k, body, rec); err == nil {
			return
		}
		if !refused(err) || !r.balancer.eject(k) {
			return
		}
		rec.Refused++
	}
}

// notSent says why a request found no target: none was ready, or those that were took no connection,
// whose class and text are in the record already.
func (r *Runner) notSent(ctx context.Context, rec *Record) {
	switch {
	case ctx.Err() != nil:
		rec.Fail(FailedUnfinished, "")
	case rec.Failed == "":
		rec.Fail(FailedNotReady, fmt.Sprintf("no target was ready within %v", r.cfg.ReadyWait))
	}
}

// attempt sends a request to one target.
func (r *Runner) attempt(ctx context.Context, k *backend, body func(API) ([]byte, error), rec *Record) error {
	defer r.balancer.release(k)
	rec.Target = k.name()
	rec.Fail("", "")
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.Timeout, errTimeout)
	defer cancel()
	err := r.exchange(ctx, k.Target, body, rec)
	if err != nil {
		rec.Fail(r.class(ctx, rec, err), err.Error())
	}
	return err
}

// refused says whether there was no connection to send on.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

var (
	errTimeout     = errors.New("request timed out")
	errStatus      = errors.New("not 200")
	errStreamEvent = errors.New("error in stream")
	errEmpty       = errors.New("no token")
)

// class names a failure.
func (r *Runner) class(ctx context.Context, rec *Record, err error) string {
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return FailedTimeout
	case ctx.Err() != nil:
		return FailedUnfinished
	case errors.Is(err, errStreamEvent):
		return FailedStream
	case errors.Is(err, errEmpty):
		return FailedEmpty
	case errors.Is(err, errStatus):
		return fmt.Sprintf("http_%d", rec.Status)
	case rec.Status == 0:
		return FailedConnect
	}
	return FailedCut
}

// prepare generates the prompt, once for all targets.
func (r *Runner) prepare(req Request, number int) func(API) ([]byte, error) {
	text, ids := req.Prompt, []int(nil)
	switch {
	case text != "":
	case r.cfg.Vocabulary > 0:
		ids = promptIDs(req.PromptTokens, r.cfg.Vocabulary, req.Prefix, r.cfg.Seed, number)
	default:
		text = prompt(req.PromptTokens, req.Prefix, r.cfg.Seed, number)
	}
	return func(a API) ([]byte, error) { return a.body(r.cfg.Model, text, ids, req.OutputTokens) }
}

func (r *Runner) exchange(ctx context.Context, t Target, body func(API) ([]byte, error), rec *Record) error {
	b, err := body(t.API)
	if err != nil {
		return err
	}
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, t.endpoint(), bytes.NewReader(b))
	if err != nil {
		return err
	}
	for name, values := range r.cfg.Header {
		out.Header[http.CanonicalHeaderKey(name)] = values
	}
	out.Header.Set("Content-Type", "application/json")
	out.Header.Set("Accept", "text/event-stream")
	rec.Sent = time.Now()
	resp, err := r.client.Do(out)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	rec.Status = resp.StatusCode
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // a detail only
		return fmt.Errorf("%w: %s", errStatus, strings.TrimSpace(string(b)))
	}
	return readStream(resp.Body, t.API, rec)
}

// readStream times a stream's tokens until it is complete.
func readStream(body io.Reader, api API, rec *Record) error {
	events := newEventReader(body)
	counted := 0
	for {
		e, err := events.next()
		if err != nil {
			return fmt.Errorf("stream ended early: %w", err)
		}
		v := api.classify(e)
		if v.kind == tokens && v.completion > 0 && v.completion == counted {
			v.kind = other // the same count again: a closing event
		}
		switch v.kind {
		case failed:
			return fmt.Errorf("%w: %.300s", errStreamEvent, e.data)
		case opening:
			rec.First(time.Now())
		case tokens:
			rec.Token(time.Now())
			counted++
			rec.Tokens = max(rec.Tokens, counted)
		}
		if v.completion > 0 {
			rec.Tokens, counted = v.completion, v.completion
		}
		if v.prompt > 0 {
			rec.PromptTokens = v.prompt
		}
		if v.last {
			_, _ = io.Copy(io.Discard, body) // the closing bytes, so that the connection is kept
			if rec.FirstToken.IsZero() {
				return errEmpty
			}
			return nil
		}
	}
}
