package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// applyTime leaves room within the ten seconds that a call may take.
const applyTime = 8 * time.Second

// askable are scheduler settings that released versions refuse to change while running and that
// are asked for all the same: a version that takes them shows it in what is read back. Until one
// is known, no knob of these is described as hot.
var askable = []string{
	"max_running_requests", "max_queued_requests", "chunked_prefill_size", "max_prefill_tokens",
	"schedule_policy", "schedule_conservativeness",
}

// Apply asks the running engine for each setting and believes only what it reads back: SGLang
// answers 200 also when it changes nothing. Knobs are asked for one by one, because one that is
// refused takes the whole call with it.
func (adapter) Apply(ctx context.Context, t *engine.Target, s engine.Settings) ([]*engine.KnobResult, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	c := &change{target: t, table: tableFor(t)}
	var results []*engine.KnobResult
	for _, name := range slices.Sorted(maps.Keys(s)) {
		r := c.one(ctx, name, s[name])
		r.Knob = name
		results = append(results, r)
	}
	return results, nil
}

// change is one call of Apply.
type change struct {
	target *engine.Target
	table  *engine.Table
}

func (c *change) one(ctx context.Context, name, want string) *engine.KnobResult {
	k := c.table.Knob(name)
	if why := c.impossible(k, name, want); why != "" {
		return &engine.KnobResult{Reason: why}
	}
	if have, err := c.running(ctx, k); err != nil {
		return &engine.KnobResult{Reason: err.Error()}
	} else if sameValue(have, want) {
		return &engine.KnobResult{Applied: true, Value: have}
	}
	if err := c.ask(ctx, k, want); err != nil {
		return &engine.KnobResult{Reason: err.Error()}
	}
	have, err := c.running(ctx, k)
	switch {
	case err != nil:
		return &engine.KnobResult{Reason: err.Error()}
	case !sameValue(have, want):
		return &engine.KnobResult{Value: have, Reason: fmt.Sprintf("SGLang did not take %s while running and keeps %q: it takes a restart", name, have)}
	}
	return &engine.KnobResult{Applied: true, Value: have}
}

// impossible says why a knob is not even asked for; empty when it is.
func (c *change) impossible(k *engine.Knob, name, want string) string {
	switch {
	case k == nil:
		return fmt.Sprintf("this version of SGLang has no knob %q", name)
	case !k.GetHot() && !slices.Contains(askable, name):
		return "SGLang reads " + name + " only when it starts: it takes a restart"
	case want == "":
		return name + " goes back to its default only by a restart"
	case c.target.GetBaseUrl() == "":
		return "the engine does not serve: " + name + " cannot be changed now"
	}
	if problems := c.table.Check(engine.Settings{name: want}, c.table.Parse(c.target.GetArgv(), c.target.GetEnv())); len(problems) > 0 {
		return problems[0].GetMessage()
	}
	return ""
}

// running reads a knob back; empty when the engine runs without a value.
func (c *change) running(ctx context.Context, k *engine.Knob) (string, error) {
	info, err := askInfo(ctx, c.target.GetBaseUrl())
	if err != nil {
		return "", fmt.Errorf("the engine does not tell its settings: %w", err)
	}
	value, _ := info.value(k)
	return value, nil
}

// poster talks to the engine directly, as engine.Get does.
var poster = &http.Client{
	Timeout:       2 * time.Second,
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ask requests one change. That the engine answered does not say that it obeyed.
func (c *change) ask(ctx context.Context, k *engine.Knob, want string) error {
	body, err := json.Marshal(map[string]any{"server_args": map[string]any{k.GetName(): typed(k, want)}})
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.target.GetBaseUrl()+"/set_internal_state", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask for the change: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := poster.Do(req)
	if err != nil {
		return fmt.Errorf("ask for the change: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("this version of SGLang changes nothing while running: %s takes a restart", k.GetName())
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("SGLang asks for a key before it changes anything: %s takes a restart", k.GetName())
	}
	return fmt.Errorf("SGLang refused the change with HTTP status %d: %s takes a restart", resp.StatusCode, k.GetName())
}

// typed is a value as JSON wants it.
func typed(k *engine.Knob, value string) any {
	switch k.GetType() {
	case engine.Int, engine.Float:
		return json.Number(value)
	case engine.Bool:
		return value == "true"
	}
	return value
}
