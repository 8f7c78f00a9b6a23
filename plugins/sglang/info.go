package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// serverInfo is SGLang's account of itself: all its arguments as resolved, and for each scheduler
// what it runs with. The account holds the API keys in clear, so values leave it only one by one,
// by knob name.
type serverInfo struct {
	args   map[string]json.RawMessage
	states []map[string]json.RawMessage
}

// errNotSGLang: something answered that is not SGLang.
var errNotSGLang = errors.New("the answer is not SGLang's")

// askInfo reads /server_info, or its old name where the new one is not known.
func askInfo(ctx context.Context, baseURL string) (*serverInfo, error) {
	body, err := engine.Get(ctx, baseURL, "/server_info")
	if statusOf(err) == http.StatusNotFound {
		body, err = engine.Get(ctx, baseURL, "/get_server_info")
	}
	if err != nil {
		return nil, err
	}
	return parseInfo(body)
}

func parseInfo(body []byte) (*serverInfo, error) {
	i := &serverInfo{}
	if err := json.Unmarshal(body, &i.args); err != nil {
		return nil, errNotSGLang
	}
	if i.text("model_path") == "" || i.args["mem_fraction_static"] == nil {
		return nil, errNotSGLang
	}
	// Releases differ in what a scheduler says of itself; what cannot be read is not there.
	_ = json.Unmarshal(i.args["internal_states"], &i.states)
	return i, nil
}

// statusOf is the HTTP status that an error stands for, or 0.
func statusOf(err error) int {
	if status, ok := errors.AsType[*engine.StatusError](err); ok {
		return status.Code
	}
	return 0
}

// text of one argument; empty when it is absent, null or no plain value.
func (i *serverInfo) text(name string) string { return plain(i.args[name]) }

// value that a knob has in the running engine. The schedulers' own account counts before the
// arguments, since a hot change moves only the former; ok is false when they disagree or do not tell.
func (i *serverInfo) value(k *engine.Knob) (value string, ok bool) {
	name := k.GetName()
	if name == radixName {
		value, ok = i.read("disable_radix_cache")
		off, err := strconv.ParseBool(value)
		return strconv.FormatBool(!off), ok && err == nil
	}
	value, ok = i.read(name)
	if k.GetType() == engine.Enum && !slices.Contains(k.GetValues(), value) {
		return "", false // resolved to a name that the flag does not take
	}
	return value, ok
}

func (i *serverInfo) read(name string) (value string, ok bool) {
	for _, state := range i.states {
		v := plain(state[name])
		if v == "" {
			continue
		}
		if ok && v != value {
			return "", false
		}
		value, ok = v, true
	}
	if !ok {
		value = i.text(name)
	}
	return value, value != ""
}

// plain writes a JSON number, text or truth value as text; anything else is empty.
func plain(raw json.RawMessage) string {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if decoder.Decode(&v) != nil {
		return ""
	}
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// effective adds what the engine says of itself to what the command line says, defaults and knobs
// that do nothing left out. The engine wins: it resolves, caps and may have been changed while running.
func (i *serverInfo) effective(table *engine.Table, given engine.Settings) engine.Settings {
	for _, k := range fitted(table, given).Knobs {
		value, told := i.value(k)
		have, set := given[k.GetName()]
		if !told || !set && k.GetIgnoredBecause() != "" || set && sameValue(have, value) || !set && sameValue(k.GetDefaultValue(), value) {
			continue
		}
		given[k.GetName()] = value
	}
	return given
}

// sameValue compares two values as the engine would: 1 is 1.0.
func sameValue(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && x == y
}
