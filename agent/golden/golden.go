// Package golden puts golden prompts to an engine at temperature 0 and asks it how likely it holds the
// tokens of an answer: by prompt_logprobs of vLLM, the input log-probabilities of SGLang and the
// decoder input details of TGI. What the answers are worth is judged elsewhere (pkg/quality).
package golden

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/pkg/quality"
)

// Width is how many prompts are asked at once: enough to be quick, few enough that an engine's batch
// is about the same whenever it is asked.
const Width = 4

const (
	requestTimeout = 2 * time.Minute
	maxAnswer      = 32 << 20 // log-probabilities of long prompts in JSON
)

// dialect is how one kind of engine is asked.
type dialect interface {
	// generate answers a prompt.
	generate(ctx context.Context, a *Asker, q quality.Question, out *quality.Answer) error
	// score returns the log-probabilities of forced tokens after the prompt.
	score(ctx context.Context, a *Asker, q quality.Question, f quality.Forced) ([]float64, error)
}

var dialects = map[string]dialect{"vllm": vllm{}, "sglang": sglang{}, "tgi": tgi{}}

// Asker asks one engine.
type Asker struct {
	URL, Model string
	header     http.Header
	dialect    dialect
	client     *http.Client
}

// New returns an asker of an engine of the kind; header goes with every request.
func New(kind, url, model string, header http.Header) (*Asker, error) {
	d, ok := dialects[kind]
	if !ok {
		return nil, fmt.Errorf("it is not known how an engine of kind %q tells log-probabilities: answers can be judged of vllm, sglang and tgi", kind)
	}
	return &Asker{
		URL: strings.TrimRight(url, "/"), Model: model, header: header, dialect: d,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: Width, IdleConnTimeout: 4 * time.Second}, Timeout: requestTimeout},
	}, nil
}

// Ask puts all questions; answers come in their order. What single prompts fail of is in their
// answers; forbidden, which may be nil, is asked before each and ends it all with its words.
func (a *Asker) Ask(ctx context.Context, questions []quality.Question, forbidden func() string) ([]quality.Answer, error) {
	defer a.client.CloseIdleConnections()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	answers := make([]quality.Answer, len(questions))
	next := make(chan int)
	var askers sync.WaitGroup
	for range Width {
		askers.Go(func() {
			for k := range next {
				answers[k] = a.one(ctx, questions[k])
			}
		})
	}
	for k := range questions {
		if why := ask(forbidden); why != "" {
			stop(fmt.Errorf("%s", why))
		}
		select {
		case next <- k:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	askers.Wait()
	return answers, context.Cause(ctx)
}

func ask(forbidden func() string) string {
	if forbidden == nil {
		return ""
	}
	return forbidden()
}

// one question: its answer, and the log-probabilities of what is forced, or of the answer itself.
func (a *Asker) one(ctx context.Context, q quality.Question) quality.Answer {
	out := quality.Answer{ID: q.ID}
	if err := a.dialect.generate(ctx, a, q, &out); err != nil {
		out.Error = err.Error()
		return out
	}
	forced := q.Forced
	if forced == nil {
		forced = out.Said
	}
	if forced == nil || len(forced.IDs) == 0 {
		out.LogprobError = "the engine does not tell the tokens of its answer"
		return out
	}
	var err error
	if out.Logprobs, err = a.dialect.score(ctx, a, q, *forced); err != nil {
		out.Logprobs, out.LogprobError = nil, err.Error()
	}
	return out
}

// post sends in as JSON and reads the answer into out.
func (a *Asker) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, values := range a.header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %.300s", path, resp.Status, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s answers what is not expected: %w", path, err)
	}
	return nil
}
