package main

import (
	"math"
	"testing"
)

func TestBlocks(t *testing.T) {
	nan := math.NaN()
	for name, c := range map[string]struct {
		values []float64
		width  int
		want   string
	}{
		"from zero":      {[]float64{0, 1, 7}, 10, "▁▂█"},
		"a gap":          {[]float64{7, nan, 7}, 10, "█ █"},
		"highest of two": {[]float64{1, 7, 0, 0}, 2, "█▁"},
		"gap and value":  {[]float64{nan, 7}, 1, "█"},
		"all zero":       {[]float64{0, 0}, 10, "▁▁"},
		"below zero":     {[]float64{-7, 0}, 10, "▁█"},
		"nothing":        {nil, 10, ""},
	} {
		if got := blocks(c.values, c.width); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
