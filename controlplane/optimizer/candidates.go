package optimizer

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// candidate is one configuration that differs from the incumbent in one knob family.
type candidate struct {
	family  enginev1.KnobFamily
	neutral map[string]string // what changes, by neutral name
	change  map[string]string // the same by the engine's knob names
}

// title in words: "max_num_seqs 4 → 64, max_num_batched_tokens 48 → 8192".
func (c candidate) title(s *Scene) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c.change)) {
		from := "default"
		for _, k := range s.Description.GetKnobs() {
			if k.GetName() == name && s.value(k) != "" {
				from = s.value(k)
			}
		}
		parts = append(parts, fmt.Sprintf("%s %s → %s", name, from, c.change[name]))
	}
	return strings.Join(parts, ", ")
}

// rejection is a candidate that is not predicted at all, and the rule that says so.
type rejection struct {
	candidate string
	because   string
}

// families by the name that routes and people use.
var families = map[string]enginev1.KnobFamily{
	"kv_cache":     enginev1.KnobFamily_KNOB_FAMILY_KV_CACHE,
	"batching":     enginev1.KnobFamily_KNOB_FAMILY_BATCHING,
	"quantization": enginev1.KnobFamily_KNOB_FAMILY_QUANTIZATION,
	"parallelism":  enginev1.KnobFamily_KNOB_FAMILY_PARALLELISM,
}

// axes are the neutral knobs that the generator varies, with their values.
var axes = []struct {
	family  string
	neutral string
	values  []string
}{
	{"batching", "max_num_seqs", []string{"8", "16", "32", "64", "128", "256", "512", "1024"}},
	{"batching", "max_num_batched_tokens", []string{"64", "128", "256", "512", "1024", "2048", "4096", "8192", "16384"}},
	{"batching", "max_concurrent", []string{"32", "64", "128", "256", "512"}},
	{"kv_cache", "kv_memory_fraction", []string{"0.8", "0.85", "0.9", "0.92", "0.95"}},
	{"kv_cache", "prefix_caching", []string{"true"}},
	{"kv_cache", "kv_dtype", []string{"fp8_e4m3", "fp8_e4m3fn"}},
	{"quantization", "weight_dtype", []string{"fp8"}},
	{"parallelism", "tensor_parallel", []string{"1", "2", "4", "8"}},
}

// candidates of the families asked for (none: all), each checked by the hard rules.
func (s *Scene) candidates(asked []string) ([]candidate, []rejection) {
	var out []candidate
	var no []rejection
	for _, family := range slices.Sorted(maps.Keys(families)) {
		if len(asked) > 0 && !slices.Contains(asked, family) {
			continue
		}
		for _, c := range s.combinations(family) {
			if why := s.hardRules(c); why != "" {
				no = append(no, rejection{c.title(s), why})
				continue
			}
			out = append(out, c)
		}
	}
	return out, no
}

// combinations of a family's axes, the incumbent itself left out.
func (s *Scene) combinations(family string) []candidate {
	all := []map[string]string{{}}
	config := s.Config()
	for _, axis := range axes {
		if axis.family != family || s.knob(axis.neutral) == nil {
			continue
		}
		var grown []map[string]string
		for _, c := range all {
			grown = append(grown, c) // this knob as it is
			for _, v := range axis.values {
				if v == config[axis.neutral] {
					continue
				}
				next := maps.Clone(c)
				next[axis.neutral] = v
				grown = append(grown, next)
			}
		}
		all = grown
	}
	var out []candidate
	for _, neutral := range all {
		if len(neutral) == 0 {
			continue
		}
		c := candidate{family: families[family], neutral: neutral, change: map[string]string{}}
		for n, v := range neutral {
			c.change[s.knob(n).GetName()] = v
		}
		out = append(out, c)
	}
	return out
}

// hardRules says why a candidate cannot work, or "".
func (s *Scene) hardRules(c candidate) string {
	for _, name := range slices.Sorted(maps.Keys(c.neutral)) {
		k := s.knob(name)
		if why := s.outOfReach(name, c.neutral[name]); why != "" {
			return why
		}
		if k.GetType() == enginev1.KnobType_KNOB_TYPE_ENUM && len(k.GetValues()) > 0 && !slices.Contains(k.GetValues(), c.neutral[name]) {
			return fmt.Sprintf("%s knows no value %s in this version", k.GetName(), c.neutral[name])
		}
	}
	value := func(neutral string, fallback float64) float64 {
		if v, ok := c.neutral[neutral]; ok {
			if f, err := parse(v); err == nil {
				return f
			}
		}
		return s.number(neutral, fallback)
	}
	seqs, budget := value("max_num_seqs", 0), value("max_num_batched_tokens", math.Inf(1))
	if seqs > 0 && budget < seqs {
		return fmt.Sprintf("a step's budget of %s tokens is below %s sequences: the engine refuses it", format(budget), format(seqs))
	}
	if k := s.kvTokens(); k > 0 {
		t, err := s.traffic()
		if err == nil && seqs > 0 && seqs*(t.prompt+t.output/2) > 4*float64(k) {
			return fmt.Sprintf("%s sequences of this traffic would want %.0f tokens of KV cache, four times the %d there are", format(seqs), seqs*(t.prompt+t.output/2), k)
		}
	}
	if problems := s.check(c); len(problems) > 0 {
		return problems[0].GetMessage()
	}
	return ""
}

// reach bounds how far a limit may move in one proposal where only the engine's own telemetry tells
// what a step costs: beyond that the prediction would be a guess.
const reach = 16

// outOfReach says why a knob's value cannot be predicted for engines that no table knows, or "".
func (s *Scene) outOfReach(neutral, value string) string {
	if s.Tabled {
		return ""
	}
	switch neutral {
	case "max_num_seqs", "max_num_batched_tokens", "max_concurrent":
		now, ok := s.Config().Number(neutral)
		to, err := parse(value)
		switch {
		case !ok || now <= 0:
			return fmt.Sprintf("the engine does not tell its %s now, so nothing can be compared with it", s.knob(neutral).GetName())
		case err == nil && to > reach*now:
			return fmt.Sprintf("more than %d times the present %s is beyond what its step times tell", reach, format(now))
		}
	case "prefix_caching":
	default:
		return "the tables do not know this hardware or model, so its effect cannot be predicted"
	}
	return ""
}

// check asks the engine's own knob table.
func (s *Scene) check(c candidate) []*enginev1.Problem {
	catalog := &engine.Catalog{}
	for _, k := range s.Description.GetKnobs() {
		catalog.Entries = append(catalog.Entries, engine.Entry{Knob: k})
	}
	for _, r := range s.Description.GetConstraints() {
		catalog.Rules = append(catalog.Rules, engine.Rule{Constraint: r})
	}
	return catalog.At(engine.Version{}).Check(s.with(c.change), s.Base)
}

// lossy reports whether a candidate may change answers.
func (s *Scene) lossy(c candidate) bool {
	for n := range c.neutral {
		if s.knob(n).GetLossy() {
			return true
		}
	}
	return false
}

// turnsCacheOn reports whether a change switches a prefix cache on that is off.
func (s *Scene) turnsCacheOn(neutral map[string]string) bool {
	return neutral["prefix_caching"] == "true" && s.Config()["prefix_caching"] == "false"
}

// restart reports whether any of its knobs needs one.
func (s *Scene) restart(c candidate) bool {
	for n := range c.neutral {
		if !s.knob(n).GetHot() {
			return true
		}
	}
	return false
}
