package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// catalog is vLLM's tuning surface from 0.8 on. Spans are release tags: gone is the first tag
// without the flag. Where only one release is known to have a value, the span begins there.
var catalog = &engine.Catalog{
	Entries:     slices.Concat(kvKnobs, batchKnobs, graphKnobs, parallelKnobs, speculationKnobs, quantizationKnobs, limitKnobs, goneKnobs),
	Rules:       rules,
	Underscores: true,
	Normalize:   normalize,
}

// newestKnown is the newest release whose flags this table was checked against.
const newestKnown = "0.33"

// firstUnknown is the release after it.
const firstUnknown = "0.34"

// oldestKnown is the first release with the V1 engine and metrics that the table describes.
const oldestKnown = "0.8"

// normalize reads the sizes that vLLM's parser takes for whole numbers: 8k is 8000, 8K is 8192.
func normalize(k *engine.Knob, value string) string {
	if k.GetType() != engine.Int || len(value) < 2 {
		return value
	}
	factor, ok := map[byte]float64{
		'k': 1e3, 'm': 1e6, 'g': 1e9, 't': 1e12,
		'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40,
	}[value[len(value)-1]]
	if !ok {
		return value
	}
	n, err := strconv.ParseFloat(value[:len(value)-1], 64)
	if err != nil || n < 0 || n*factor > 1<<53 {
		return value
	}
	return strconv.FormatInt(int64(n*factor), 10)
}

// flagOf spells a knob's flag as vLLM does: dashes for underscores.
func flagOf(name string) string { return "--" + strings.ReplaceAll(name, "_", "-") }

func intKnob(name string, lowest float64, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: flagOf(name), Type: engine.Int, Min: new(lowest),
		Family: family, ActsOn: acts, Help: help,
	}
}

func floatKnob(name string, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: flagOf(name), Type: engine.Float, Min: new(0.0),
		Family: family, ActsOn: acts, Help: help,
	}
}

// boolKnob is a switch with both forms, --x and --no-x.
func boolKnob(name, byDefault string, family familyOf, acts []effect, help string) *engine.Knob {
	flag := flagOf(name)
	return &engine.Knob{
		Name: name, Flag: flag, NegativeFlag: "--no-" + strings.TrimPrefix(flag, "--"), Type: engine.Bool,
		DefaultValue: byDefault, Family: family, ActsOn: acts, Help: help,
	}
}

func enumKnob(name, byDefault string, values []string, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: flagOf(name), Type: engine.Enum, DefaultValue: byDefault, Values: values,
		Family: family, ActsOn: acts, Help: help,
	}
}

func textKnob(name, byDefault string, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: flagOf(name), Type: engine.String, DefaultValue: byDefault,
		Family: family, ActsOn: acts, Help: help,
	}
}

// change adapts a freshly made knob: neutral name, default, aliases, lossiness.
func change(k *engine.Knob, edit func(*engine.Knob)) *engine.Knob {
	edit(k)
	return k
}

func neutral(name string, k *engine.Knob) *engine.Knob {
	k.Neutral = name
	return k
}

func lossy(k *engine.Knob) *engine.Knob {
	k.Lossy = true
	return k
}

func withDefault(value string, k *engine.Knob) *engine.Knob {
	k.DefaultValue = value
	return k
}

// computed marks a default that vLLM works out at start.
func computed(rule string, k *engine.Knob) *engine.Knob {
	k.DefaultRule = rule
	return k
}

func aliases(k *engine.Knob, names ...string) *engine.Knob {
	k.Aliases = names
	return k
}
