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
	if pointer == "" || pointer[0] != '/' {
		return nil
	}
	v, ok := lookUp(doc, strings.Split(pointer[1:], "/"))
	if !ok || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return nil
	}
	return &v
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

func lookUp(doc any, tokens []string) (float64, bool) {
	if len(tokens) == 0 {
		v, ok := doc.(float64)
		return v, ok
	}
	token, rest := unescape.Replace(tokens[0]), tokens[1:]
	switch d := doc.(type) {
	case map[string]any:
		member, ok := d[token]
		if !ok {
			return 0, false
		}
		return lookUp(member, rest)
	case []any:
		if token == "*" {
			return sumOf(d, rest)
		}
		i, err := strconv.Atoi(token)
		if err != nil || i < 0 || i >= len(d) {
			return 0, false
		}
		return lookUp(d[i], rest)
	}
	return 0, false
}

func sumOf(members []any, rest []string) (sum float64, ok bool) {
	for _, m := range members {
		v, found := lookUp(m, rest)
		if !found {
			return 0, false
		}
		sum += v
	}
	return sum, len(members) > 0
}
