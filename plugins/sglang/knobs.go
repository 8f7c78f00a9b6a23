package main

import (
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

type (
	familyOf = enginev1.KnobFamily
	effect   = enginev1.Effect
)

// catalog is SGLang's tuning surface from 0.4.6 on. Spans are release tags: gone is the first tag
// without the flag. Where only one release is known to have a value, the span begins there. Flags
// that take a list of words (--cuda-graph-bs 1 2 4) are left to the operator.
var catalog = &engine.Catalog{
	Entries: slices.Concat(kvKnobs, hierarchicalKnobs, batchKnobs, hotKnobs, graphKnobs, kernelKnobs, parallelKnobs,
		speculationKnobs, quantizationKnobs, loraKnobs, limitKnobs, goneKnobs),
	Rules: rules,
}

const (
	// oldestKnown is the oldest release that the table describes.
	oldestKnown = "0.4.6"
	// newestKnown is the newest release whose flags this table was checked against.
	newestKnown = "0.5.23"
	// firstUnknown is the release after it.
	firstUnknown = "0.5.24"
)

// flagOf spells a knob's flag as SGLang does: dashes for underscores.
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

// switchKnob is off unless its flag is given; SGLang has no --no-x forms.
func switchKnob(name string, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: flagOf(name), Type: engine.Bool, DefaultValue: "false",
		Family: family, ActsOn: acts, Help: help,
	}
}

func enumKnob(name, byDefault string, values []string, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: flagOf(name), Type: engine.Enum, DefaultValue: byDefault, Values: values,
		Family: family, ActsOn: acts, Help: help,
	}
}

func textKnob(name string, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: flagOf(name), Type: engine.String,
		Family: family, ActsOn: acts, Help: help,
	}
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

// computed marks a default that SGLang works out at start.
func computed(rule string, k *engine.Knob) *engine.Knob {
	k.DefaultRule = rule
	return k
}

func aliases(k *engine.Knob, names ...string) *engine.Knob {
	k.Aliases = names
	return k
}

// atMost closes a range from above.
func atMost(highest float64, k *engine.Knob) *engine.Knob {
	k.Max = new(highest)
	return k
}

// open takes the bounds themselves out of a range.
func open(k *engine.Knob) *engine.Knob {
	k.MinExclusive, k.MaxExclusive = true, k.Max != nil
	return k
}
