package enginetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// trials per release; each touches up to four knobs.
const trials = 60

// command builds command lines for random settings and reads them back.
func (s *suite) command(t *testing.T) {
	for _, version := range s.Versions {
		t.Run(version, func(t *testing.T) {
			d := s.mustDescribe(t, s.target(version))
			random := rand.New(rand.NewPCG(1, uint64(len(version))))
			accepted := 0
			for range trials {
				settings := randomSettings(random, d)
				problems, err := s.adapter.Validate(t.Context(), s.target(version), settings)
				if err != nil {
					t.Fatalf("validate %v: %v", settings, err)
				}
				if len(problems) > 0 {
					continue
				}
				accepted++
				s.roundTrip(t, version, d, settings)
				if t.Failed() {
					return
				}
			}
			if accepted < trials/4 {
				t.Errorf("only %d of %d random settings were accepted: the check proves little", accepted, trials)
			}
		})
	}
	t.Run("refused settings", func(t *testing.T) {
		if _, err := s.adapter.Command(t.Context(), s.target(s.newest()), engine.Settings{"no_such_knob": "1"}); err == nil {
			t.Error("a command line was built for settings that Validate refuses")
		}
	})
}

// roundTrip: parse(build(base, s)) = s, nothing else changes, and building again changes nothing.
func (s *suite) roundTrip(t *testing.T, version string, before *engine.Description, settings engine.Settings) {
	t.Helper()
	target := s.target(version)
	line, err := s.adapter.Command(t.Context(), target, settings)
	if err != nil {
		t.Errorf("command for %v: %v", settings, err)
		return
	}
	env := maps.Clone(s.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, line.Env)
	built := &engine.Target{Argv: line.Argv, Env: env, Version: version}
	after := s.mustDescribe(t, built)
	if diff := cmp.Diff(map[string]string(line.Effective), after.GetEffective()); diff != "" {
		t.Errorf("settings %v: command and describe disagree on what is effective (-command +describe):\n%s", settings, diff)
	}
	for _, k := range before.GetKnobs() {
		want, set := settings[k.GetName()]
		if !set {
			want = valueOf(k, before.GetEffective())
		}
		if got := valueOf(k, after.GetEffective()); !equal(got, want) && (set || k.GetName() != before.GetStop().GetGraceKnob()) {
			t.Errorf("settings %v: %s is %q, want %q, in %q", settings, k.GetName(), got, want, line.Argv)
		}
	}
	if !isSubsequence(s.Keep, line.Argv) {
		t.Errorf("settings %v: the operator's own flags %q did not survive in %q", settings, s.Keep, line.Argv)
	}
	again, err := s.adapter.Command(t.Context(), built, settings)
	if err != nil {
		t.Errorf("command on its own result: %v", err)
		return
	}
	if diff := cmp.Diff(line.Argv, again.Argv); diff != "" {
		t.Errorf("settings %v: building twice changes the command line (-once +twice):\n%s", settings, diff)
	}
}

func valueOf(k *engine.Knob, effective map[string]string) string {
	if v, ok := effective[k.GetName()]; ok {
		return v
	}
	if k.GetType() == engine.Bool && k.GetDefaultValue() == "" {
		return "false"
	}
	return k.GetDefaultValue()
}

func equal(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && x == y
}

func isSubsequence(part, whole []string) bool {
	for _, token := range whole {
		if len(part) > 0 && part[0] == token {
			part = part[1:]
		}
	}
	return len(part) == 0
}

func randomSettings(r *rand.Rand, d *engine.Description) engine.Settings {
	s := engine.Settings{}
	for range 1 + r.IntN(4) {
		k := d.GetKnobs()[r.IntN(len(d.GetKnobs()))]
		if k.GetIgnoredBecause() == "" {
			s[k.GetName()] = randomValue(r, k)
		}
	}
	return s
}

func randomValue(r *rand.Rand, k *engine.Knob) string {
	if values := k.GetValues(); len(values) > 0 && (k.GetType() == engine.Enum || r.IntN(4) == 0) {
		return values[r.IntN(len(values))]
	}
	low, high := 1.0, 4096.0
	if k.Min != nil {
		low = k.GetMin()
	}
	if k.Max != nil {
		high = k.GetMax()
	}
	switch k.GetType() {
	case engine.Bool:
		return strconv.FormatBool(r.IntN(2) == 0)
	case engine.Int:
		return strconv.FormatInt(int64(low)+r.Int64N(max(1, int64(high-low))), 10)
	case engine.Float:
		steps := []float64{0.25, 0.5, 0.75}
		return strconv.FormatFloat(low+(min(high, low+8)-low)*steps[r.IntN(len(steps))], 'f', -1, 64)
	}
	return fmt.Sprintf("text%d", r.IntN(100))
}

// sorted is the keys of a map in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
