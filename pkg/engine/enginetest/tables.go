package enginetest

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// neutralNames are the optimizer's names, as the wire contract lists them.
var neutralNames = []string{
	"", "max_num_seqs", "max_num_batched_tokens", "kv_memory_fraction", "kv_dtype", "weight_dtype", "prefix_caching",
	"chunked_prefill", "block_size", "tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "max_queue",
	"max_concurrent", "max_model_len", "eager", "schedule_policy", "schedule_conservativeness", "speculative_tokens", "shutdown_timeout",
}

// tables checks what each release can be told.
func (s *suite) tables(t *testing.T) {
	for _, version := range s.Versions {
		t.Run(version, func(t *testing.T) {
			d := s.mustDescribe(t, s.target(version))
			s.soundKnobs(t, version, d)
			soundConstraints(t, d)
			soundRest(t, d)
			golden(t, filepath.Join(s.Testdata, "knobs-"+version+".golden"), knobTable(d))
		})
	}
}

func (s *suite) soundKnobs(t *testing.T, version string, d *engine.Description) {
	owner, neutral := map[string]string{}, map[string]string{}
	claim := func(in map[string]string, what, knob string) {
		if other, taken := in[what]; taken && what != "" {
			t.Errorf("%s belongs to %s and to %s", what, other, knob)
		}
		in[what] = knob
	}
	for _, k := range d.GetKnobs() {
		claim(owner, k.GetName(), k.GetName())
		for _, flag := range append([]string{k.GetFlag(), k.GetNegativeFlag()}, k.GetAliases()...) {
			claim(owner, flag, k.GetName())
		}
		claim(neutral, k.GetNeutral(), k.GetName())
		for _, fault := range knobFaults(k) {
			t.Errorf("%s: %s", k.GetName(), fault)
		}
		s.defaultIsLegal(t, version, k)
	}
}

func knobFaults(k *engine.Knob) (faults []string) {
	add := func(bad bool, fault string) {
		if bad {
			faults = append(faults, fault)
		}
	}
	add(k.GetType() == 0, "no type")
	add(k.GetFamily() == 0, "no family")
	add(k.GetHelp() == "", "no help")
	add(k.GetFlag() == "" && k.GetNegativeFlag() == "" && k.GetEnv() == "", "no way to set it")
	add(k.GetType() == engine.Enum && len(k.GetValues()) == 0, "an enum without values")
	add(k.Min != nil && k.Max != nil && k.GetMin() >= k.GetMax(), "an empty range")
	add(k.GetType() == engine.Bool && k.GetDefaultValue() == "true" && k.GetNegativeFlag() == "" && k.GetEnv() == "", "on by default and cannot be switched off")
	add(k.GetDefaultValue() == "" && k.GetDefaultRule() == "" && k.GetType() != engine.Bool, "neither a default nor a rule for it")
	add(!slices.Contains(neutralNames, k.GetNeutral()), "unknown neutral name "+k.GetNeutral())
	return faults
}

func (s *suite) defaultIsLegal(t *testing.T, version string, k *engine.Knob) {
	if k.GetDefaultValue() == "" {
		return
	}
	target := &engine.Target{Version: version}
	problems, err := s.adapter.Validate(t.Context(), target, engine.Settings{k.GetName(): k.GetDefaultValue()})
	if err != nil {
		t.Fatalf("validate: %v", err)
	}
	for _, p := range problems {
		if p.GetCode() != engine.CodeConstraint {
			t.Errorf("%s: its default %q is refused: %s", k.GetName(), k.GetDefaultValue(), p.GetMessage())
		}
	}
}

func soundConstraints(t *testing.T, d *engine.Description) {
	known := map[string]bool{"": true}
	for _, k := range d.GetKnobs() {
		known[k.GetName()] = true
	}
	for _, c := range d.GetConstraints() {
		for _, name := range []string{c.GetLeft(), c.GetRight(), c.GetWhenKnob()} {
			if !known[name] {
				t.Errorf("constraint %q names %q, which this release does not have", c.GetText(), name)
			}
		}
		if c.GetText() == "" || c.GetComparison() == 0 || c.GetLeft() == "" || c.GetRight() == "" {
			t.Errorf("constraint %v is incomplete", c)
		}
	}
}

func soundRest(t *testing.T, d *engine.Description) {
	if _, err := engine.NewMatcher(d); err != nil {
		t.Error(err)
	}
	soundSignals(t, d)
	for _, f := range d.GetFailures() {
		re := regexp.MustCompile(f.GetPattern())
		for n := re.NumSubexp() + 1; n <= 9; n++ {
			if strings.Contains(f.GetWords(), fmt.Sprintf("$%d", n)) {
				t.Errorf("failure words %q use a group that %q lacks", f.GetWords(), f.GetPattern())
			}
		}
	}
	switch p := d.GetProbes(); {
	case p.GetHealthPath() == "" || p.GetHealthTimeout().AsDuration() <= 0:
		t.Error("no health probe")
	case p.GetTokenPath() == "" || p.GetTokenBody() == "" || p.GetTokenTextPointer() == "":
		t.Error("no token probe")
	case d.GetStop().GetDefaultGrace().AsDuration() <= 0:
		t.Error("no grace for stopping")
	case d.GetRestartEstimate().AsDuration() <= 0:
		t.Error("no estimate of a restart")
	}
}

func soundSignals(t *testing.T, d *engine.Description) {
	for _, sig := range d.GetSignals() {
		i := slices.IndexFunc(engine.SignalNames(), func(info engine.SignalInfo) bool { return info.Name == sig.GetSignal() })
		if i < 0 {
			t.Errorf("unknown signal %q", sig.GetSignal())
			continue
		}
		if sig.GetSeries() == "" || sig.GetKind() == 0 {
			t.Errorf("signal %s is incomplete", sig.GetSignal())
		}
		if info := engine.SignalNames()[i]; !fits(sig, info.Kind == engine.Gauge, info.Kind == engine.HistogramSeries) {
			t.Errorf("%s from %s is of another kind than the signal", sig.GetSignal(), sig.GetSeries())
		}
		for _, more := range sig.GetPlus() {
			if more.GetSeries() == "" || more.GetKind() != sig.GetKind() {
				t.Errorf("%s: what is added to it is of another kind", sig.GetSignal())
			}
		}
	}
}

// fits: a counter may be a part of a histogram, all else is of the signal's own kind.
func fits(sig *engine.Signal, gauge, distribution bool) bool {
	part := sig.GetPart() == engine.SumPart || sig.GetPart() == engine.CountPart
	switch {
	case gauge:
		return sig.GetKind() == engine.Gauge
	case distribution:
		return sig.GetKind() == engine.HistogramSeries && !part
	}
	return sig.GetKind() == engine.Counter || sig.GetKind() == engine.HistogramSeries && part
}

// knobTable prints a table that a person can review.
func knobTable(d *engine.Description) string {
	var b strings.Builder
	for _, k := range d.GetKnobs() {
		fmt.Fprintf(&b, "%s", k.GetName())
		for _, part := range []struct{ name, value string }{
			{"neutral", k.GetNeutral()},
			{"flag", strings.Join(slices.DeleteFunc(append([]string{k.GetFlag(), k.GetNegativeFlag()}, k.GetAliases()...), func(f string) bool { return f == "" }), " ")},
			{"env", k.GetEnv()},
			{"default", k.GetDefaultValue()},
			{"range", rangeOf(k)},
			{"values", strings.Join(k.GetValues(), " ")},
			{"ignored", k.GetIgnoredBecause()},
		} {
			if part.value != "" {
				fmt.Fprintf(&b, " | %s: %s", part.name, part.value)
			}
		}
		if k.GetLossy() {
			b.WriteString(" | lossy")
		}
		if k.GetHot() {
			b.WriteString(" | hot")
		}
		b.WriteByte('\n')
	}
	for _, c := range d.GetConstraints() {
		fmt.Fprintf(&b, "constraint: %s\n", c.GetText())
	}
	return b.String()
}

func rangeOf(k *engine.Knob) string {
	if k.Min == nil && k.Max == nil {
		return ""
	}
	left, right := "(−∞", "∞)"
	if k.Min != nil {
		left = map[bool]string{true: "(", false: "["}[k.GetMinExclusive()] + fmt.Sprint(k.GetMin())
	}
	if k.Max != nil {
		right = fmt.Sprint(k.GetMax()) + map[bool]string{true: ")", false: "]"}[k.GetMaxExclusive()]
	}
	return left + ", " + right
}

// settings judges each case of the options.
func (s *suite) settings(t *testing.T) {
	for _, c := range s.Settings {
		t.Run(c.Name, func(t *testing.T) {
			target := s.target(c.Version)
			if c.Version == "" {
				target.Version = s.newest()
			}
			if c.Argv != nil {
				target.Argv = c.Argv
			}
			if c.Env != nil {
				target.Env = c.Env
			}
			problems, err := s.adapter.Validate(t.Context(), target, c.Settings)
			if err != nil {
				t.Fatalf("validate: %v", err)
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.GetKnob()+": "+p.GetCode())
			}
			if diff := cmp.Diff(c.Want, got); diff != "" {
				t.Errorf("problems differ (-want +got):\n%s%v", diff, problems)
			}
			if c.Words != "" && (len(problems) == 0 || !strings.Contains(problems[0].GetMessage(), c.Words)) {
				t.Errorf("%q is not in %v", c.Words, problems)
			}
		})
	}
}
