package main

import (
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

type (
	familyOf   = enginev1.KnobFamily
	effect     = enginev1.Effect
	seriesPart = enginev1.SeriesPart
)

// catalog is TGI's tuning surface from 1.4 on; nothing of it changes while the engine runs. Spans
// are release tags: gone is the first tag without the flag.
var catalog = &engine.Catalog{
	Entries: slices.Concat(memoryKnobs, batchKnobs, modelKnobs, limitKnobs),
	Rules:   rules,
}

const (
	// oldestKnown is the oldest release that the table describes.
	oldestKnown = "1.4"
	// newestKnown is the last release: TGI is in maintenance mode.
	newestKnown = "3.3.7"
	// firstUnknown is the release after it.
	firstUnknown = "3.4"
	// chunkingSince is the first release with the v3 backend.
	chunkingSince = "3.0"
)

// Knobs that other settings speak of.
const (
	chunking     = "prefill_chunking"
	attention    = "attention"
	batchTotal   = "max_batch_total_tokens"
	inputTokens  = "max_input_tokens"
	inputLength  = "max_input_length"
	totalTokens  = "max_total_tokens"
	prefillLimit = "max_batch_prefill_tokens"
	shards       = "num_shard"
)

// knob is spelled on the command line with dashes and in the environment in upper case.
func knob(name string, family familyOf, acts []effect, help string) *engine.Knob {
	return &engine.Knob{
		Name: name, Flag: "--" + strings.ReplaceAll(name, "_", "-"), Env: strings.ToUpper(name),
		Family: family, ActsOn: acts, Help: help,
	}
}

func intKnob(name string, lowest float64, family familyOf, acts []effect, help string) *engine.Knob {
	k := knob(name, family, acts, help)
	k.Type, k.Min = engine.Int, new(lowest)
	return k
}

func floatKnob(name string, family familyOf, acts []effect, help string) *engine.Knob {
	k := knob(name, family, acts, help)
	k.Type, k.Min = engine.Float, new(0.0)
	return k
}

func enumKnob(name string, values []string, family familyOf, acts []effect, help string) *engine.Knob {
	k := knob(name, family, acts, help)
	k.Type, k.Values = engine.Enum, values
	return k
}

func textKnob(name string, family familyOf, acts []effect, help string) *engine.Knob {
	k := knob(name, family, acts, help)
	k.Type = engine.String
	return k
}

// envOnly takes the flag away: the launcher reads the variable alone.
func envOnly(k *engine.Knob) *engine.Knob {
	k.Flag = ""
	return k
}

// envSwitch is on unless its variable says 0.
func envSwitch(name string, family familyOf, acts []effect, help string) *engine.Knob {
	k := envOnly(knob(name, family, acts, help))
	k.Type, k.DefaultValue = engine.Bool, "true"
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

// computed marks a default that TGI works out at start.
func computed(rule string, k *engine.Knob) *engine.Knob {
	k.DefaultRule = rule
	return k
}
