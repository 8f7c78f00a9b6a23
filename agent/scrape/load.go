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
	// Running and Waiting are requests; nil when the answer does not say.
	Running, Waiting *float64
}

// LoadPointers say where the numbers are, as RFC 6901 pointers. An empty one is not looked for. A
// reference token "*" adds up over all members of an array.
type LoadPointers struct {
	Running, Waiting string
}

// ParseLoad reads the answer of a load endpoint.
func ParseLoad(body []byte, at LoadPointers) (*Load, error) {
	var doc any
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("load endpoint: %w", err)
	}
	return &Load{Running: number(doc, at.Running), Waiting: number(doc, at.Waiting)}, nil
}

func number(doc any, pointer string) *float64 {
	if pointer == "" {
		return nil
	}
	found, ok := Find(doc, pointer)
	v, isNumber := found.(float64)
	if !ok || !isNumber || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return nil
	}
	return &v
}

// Find looks up an RFC 6901 pointer in a decoded JSON document. A reference token "*" stands for
// the sum over all members of an array; each must then lead to a number.
func Find(doc any, pointer string) (value any, ok bool) {
	if pointer == "" {
		return doc, true
	}
	if pointer[0] != '/' {
		return nil, false
	}
	return find(doc, strings.Split(pointer[1:], "/"))
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

func find(doc any, tokens []string) (any, bool) {
	if len(tokens) == 0 {
		return doc, true
	}
	token, rest := unescape.Replace(tokens[0]), tokens[1:]
	switch d := doc.(type) {
	case map[string]any:
		member, ok := d[token]
		if !ok {
			return nil, false
		}
		return find(member, rest)
	case []any:
		if token == "*" {
			return sumOf(d, rest)
		}
		i, err := strconv.Atoi(token)
		if err != nil || i < 0 || i >= len(d) {
			return nil, false
		}
		return find(d[i], rest)
	}
	return nil, false
}

func sumOf(members []any, rest []string) (any, bool) {
	var sum float64
	for _, m := range members {
		found, ok := find(m, rest)
		v, isNumber := found.(float64)
		if !ok || !isNumber {
			return nil, false
		}
		sum += v
	}
	return sum, len(members) > 0
}
