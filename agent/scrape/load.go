package scrape

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Load is what an engine's load endpoint says about this moment. Some engines move their gauges
// only every few seconds; where they have such an endpoint, it is the better source.
type Load struct {
	// Running and Waiting are requests, InFlight both together; nil when the answer does not say.
	Running, Waiting, InFlight *float64
	// KVUsage is the share of the KV cache in use, 0–1; nil when the answer does not say.
	KVUsage *float64
}

// LoadPointers say where the numbers are, as RFC 6901 pointers. An empty one is not looked for. A
// reference token "*" stands for all members of an array, one for each replica: requests are
// summed, shares averaged.
type LoadPointers struct {
	Running, Waiting, InFlight, KVUsage string
}

// ParseLoad reads the answer of a load endpoint.
func ParseLoad(body []byte, at LoadPointers) (*Load, error) {
	var doc any
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("load endpoint: %w", err)
	}
	l := &Load{Running: sum(doc, at.Running), Waiting: sum(doc, at.Waiting), InFlight: sum(doc, at.InFlight), KVUsage: mean(doc, at.KVUsage)}
	if l.Running == nil && l.Waiting == nil && l.InFlight == nil && l.KVUsage == nil {
		return nil, fmt.Errorf("load endpoint: the answer has none of %s", strings.Join(at.names(), " "))
	}
	return l, nil
}

func (p LoadPointers) names() (given []string) {
	for _, pointer := range []string{p.Running, p.Waiting, p.InFlight, p.KVUsage} {
		if pointer != "" {
			given = append(given, pointer)
		}
	}
	return given
}

// Requests in the engine, and whether the answer tells.
func (l *Load) Requests() (n float64, told bool) {
	if l == nil {
		return 0, false
	}
	for _, part := range []*float64{l.Running, l.Waiting} {
		if part != nil {
			n, told = n+*part, true
		}
	}
	if l.InFlight != nil {
		n, told = max(n, *l.InFlight), true
	}
	return n, told
}

func sum(doc any, pointer string) *float64 {
	all := numbers(doc, pointer)
	if len(all) == 0 {
		return nil
	}
	var total float64
	for _, v := range all {
		total += v
	}
	if math.IsInf(total, 0) {
		return nil
	}
	return &total
}

func mean(doc any, pointer string) *float64 {
	total := sum(doc, pointer)
	if total != nil {
		*total /= float64(len(numbers(doc, pointer)))
	}
	return total
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// numbers at a pointer; none unless each of them is one that counts something.
func numbers(doc any, pointer string) []float64 {
	if pointer == "" || pointer[0] != '/' {
		return nil
	}
	all, ok := find(doc, strings.Split(pointer[1:], "/"))
	if !ok {
		return nil
	}
	out := make([]float64, 0, len(all))
	for _, found := range all {
		v, isNumber := found.(float64)
		if !isNumber || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// find follows reference tokens; ok is false when one leads nowhere.
func find(doc any, tokens []string) (all []any, ok bool) {
	if len(tokens) == 0 {
		return []any{doc}, true
	}
	token, rest := unescape.Replace(tokens[0]), tokens[1:]
	switch d := doc.(type) {
	case map[string]any:
		if member, there := d[token]; there {
			return find(member, rest)
		}
	case []any:
		if token != "*" {
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(d) {
				return nil, false
			}
			return find(d[i], rest)
		}
		for _, member := range d {
			more, there := find(member, rest)
			if !there {
				return nil, false
			}
			all = append(all, more...)
		}
		return all, len(all) > 0
	}
	return nil, false
}
