package engine

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// toy has one knob of each kind of spelling.
var toy = &Catalog{
	Entries: []Entry{
		{Knob: &Knob{Name: "seqs", Flag: "--seqs", Aliases: []string{"-s", "--sequences"}, Type: Int, Min: new(1.0), Values: []string{"-1"}, Neutral: "max_num_seqs"}},
		{Knob: &Knob{Name: "tokens", Flag: "--tokens", Type: Int, Min: new(1.0), DefaultValue: "64", Env: "TOY_TOKENS"}},
		{Knob: &Knob{Name: "share", Flag: "--share", Type: Float, Min: new(0.0), MinExclusive: true, Max: new(1.0), MaxExclusive: true, DefaultValue: "0.9"}},
		{Knob: &Knob{Name: "cache", Flag: "--cache", NegativeFlag: "--no-cache", Type: Bool, DefaultValue: "true"}},
		{Knob: &Knob{Name: "radix", NegativeFlag: "--disable-radix", Type: Bool, DefaultValue: "true"}},
		{Knob: &Knob{Name: "eager", Flag: "--eager", Type: Bool, DefaultValue: "false", Env: "TOY_EAGER"}},
		{Knob: &Knob{Name: "pool", Env: "TOY_POOL", Type: Int, Min: new(0.0), DefaultValue: "4"}},
		{Knob: &Knob{Name: "mode", Flag: "--mode", Type: Enum, Values: []string{"slow", "fast"}, DefaultValue: "slow"}},
		{Knob: &Knob{Name: "level", Flag: "--level", Aliases: []string{"-O"}, Type: Int, DefaultValue: "2"}},
		{Gone: "2.0", Instead: "--seqs", Knob: &Knob{Name: "slots", Flag: "--slots", Type: Int}},
		{Since: "3.0", Knob: &Knob{Name: "queue", Flag: "--queue", Type: Int}},
	},
	Rules: []Rule{
		{Constraint: &Constraint{Left: "tokens", Comparison: GreaterOrEqual, Right: "seqs", Text: "tokens must cover seqs"}},
		{Constraint: &Constraint{Left: "cache", Comparison: Excludes, Right: "eager", Text: "cache and eager exclude each other"}},
		{Constraint: &Constraint{Left: "level", Comparison: Divides, Right: "tokens", WhenKnob: "mode", WhenValue: "fast", Text: "level must divide tokens"}},
	},
	Underscores: true,
}

func toyAt(version string) *Table {
	v, _ := ParseVersion(version)
	return toy.At(v)
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, argv string
		env        map[string]string
		want       Settings
	}{
		{name: "nothing", want: Settings{}},
		{name: "two tokens", argv: "toy --seqs 4", want: Settings{"seqs": "4"}},
		{name: "one token", argv: "toy --seqs=4", want: Settings{"seqs": "4"}},
		{name: "alias", argv: "toy -s 4", want: Settings{"seqs": "4"}},
		{name: "glued", argv: "toy -O3 -Ox", want: Settings{"level": "3"}},
		{name: "later wins", argv: "toy --seqs 4 --sequences 8", want: Settings{"seqs": "8"}},
		{name: "switch", argv: "toy --eager --no-cache", want: Settings{"eager": "true", "cache": "false"}},
		{name: "switch with a value", argv: "toy --eager False --cache=TRUE rest", want: Settings{"eager": "false", "cache": "true"}},
		{name: "negative only", argv: "toy --disable-radix", want: Settings{"radix": "false"}},
		{name: "negative number", argv: "toy --seqs -1", want: Settings{"seqs": "-1"}},
		{name: "value missing", argv: "toy --seqs --eager", want: Settings{"eager": "true"}},
		{name: "value missing at the end", argv: "toy --seqs", want: Settings{}},
		{name: "underscores", argv: "toy --disable_radix --seqs=1_000", want: Settings{"radix": "false", "seqs": "1_000"}},
		{name: "strangers", argv: `toy --seqs.max 3 --json {"seqs":1} --seqsish 4 seqs 5`, want: Settings{}},
		{name: "environment", env: map[string]string{"TOY_TOKENS": "16", "TOY_POOL": "2", "OTHER": "x"}, want: Settings{"tokens": "16", "pool": "2"}},
		{name: "flag over environment", argv: "toy --tokens 8", env: map[string]string{"TOY_TOKENS": "16"}, want: Settings{"tokens": "8"}},
		{name: "switch in the environment", env: map[string]string{"TOY_EAGER": "1"}, want: Settings{"eager": "true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, toyAt("2.5").Parse(strings.Fields(c.argv), c.env)); diff != "" {
				t.Errorf("settings differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBuild(t *testing.T) {
	for _, c := range []struct {
		name, argv string
		env        map[string]string
		settings   Settings
		want       string
		wantEnv    map[string]string
		warning    string
	}{
		{name: "no change", argv: "toy -s 4 --x  y", settings: Settings{"seqs": "4"}, want: "toy -s 4 --x y"},
		{name: "equal numbers", argv: "toy --share 0.90", settings: Settings{"share": "0.9"}, want: "toy --share 0.90"},
		{name: "in place", argv: "toy --seqs 4 --x", settings: Settings{"seqs": "8"}, want: "toy --seqs 8 --x"},
		{name: "one of three left", argv: "toy --seqs 4 --x -s 5 --sequences=6", settings: Settings{"seqs": "8"}, want: "toy --seqs 8 --x"},
		{name: "at the end", argv: "toy --x", settings: Settings{"seqs": "8", "eager": "true"}, want: "toy --x --seqs 8 --eager"},
		{name: "taken out", argv: "toy --seqs 4 --x", settings: Settings{"seqs": ""}, want: "toy --x"},
		{name: "negative form", argv: "toy --cache", settings: Settings{"cache": "false"}, want: "toy --no-cache"},
		{name: "leaving out says it", argv: "toy --eager --x", settings: Settings{"eager": "false"}, want: "toy --x"},
		{name: "negative only, off", argv: "toy", settings: Settings{"radix": "false"}, want: "toy --disable-radix"},
		{name: "negative only, on", argv: "toy --disable-radix", settings: Settings{"radix": "true"}, want: "toy"},
		{name: "environment only", argv: "toy", settings: Settings{"pool": "8"}, want: "toy", wantEnv: map[string]string{"TOY_POOL": "8"}},
		{
			name: "environment only, back to the default", argv: "toy", env: map[string]string{"TOY_POOL": "8"},
			settings: Settings{"pool": ""}, want: "toy", wantEnv: map[string]string{"TOY_POOL": "4"},
		},
		{
			name: "flag over environment", argv: "toy", env: map[string]string{"TOY_TOKENS": "16"},
			settings: Settings{"tokens": "32"}, want: "toy --tokens 32",
		},
		{
			name: "off against the environment", argv: "toy", env: map[string]string{"TOY_EAGER": "1"},
			settings: Settings{"eager": "false"}, want: "toy", wantEnv: map[string]string{"TOY_EAGER": "0"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			line := toyAt("2.5").Build(strings.Fields(c.argv), c.env, c.settings)
			if got := strings.Join(line.Argv, " "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if len(c.wantEnv)+len(line.Env) > 0 && !maps.Equal(c.wantEnv, line.Env) {
				t.Errorf("environment %v, want %v", line.Env, c.wantEnv)
			}
			for name, want := range c.settings {
				if k := toyAt("2.5").Knob(name); want != "" && !toyAt("2.5").same(k, want, effectiveOr(line.Effective, k)) {
					t.Errorf("%s is effectively %q, want %q", name, line.Effective[name], want)
				}
			}
		})
	}
}

func effectiveOr(s Settings, k *Knob) string {
	if v, ok := s[k.GetName()]; ok {
		return v
	}
	return k.GetDefaultValue()
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name     string
		settings Settings
		base     Settings
		want     string // knob: code; of the first problem
		words    string
	}{
		{name: "good", settings: Settings{"seqs": "8", "mode": "fast", "share": "0.5", "cache": "false"}},
		{name: "beside the range", settings: Settings{"seqs": "-1"}},
		{name: "below", settings: Settings{"seqs": "-2"}, want: "seqs: out_of_range", words: "must be at least 1, or -1"},
		{name: "open bounds", settings: Settings{"share": "1"}, want: "share: out_of_range", words: "above 0 and below 1"},
		{name: "infinite", settings: Settings{"share": "Inf"}, want: "share: bad_type"},
		{name: "enum", settings: Settings{"mode": "medium"}, want: "mode: out_of_range", words: "one of slow, fast"},
		{name: "neutral name", settings: Settings{"max_num_seqs": "8"}, want: "max_num_seqs: unknown_knob", words: `mean "seqs"`},
		{name: "typing error", settings: Settings{"tokns": "8"}, want: "tokns: unknown_knob", words: `mean "tokens"`},
		{name: "gone", settings: Settings{"slots": "8"}, want: "slots: removed", words: "gone since version 2.0; use --seqs"},
		{name: "to come", settings: Settings{"queue": "8"}, want: "queue: removed", words: "needs version 3.0"},
		{name: "against the default", settings: Settings{"seqs": "65"}, want: "seqs: constraint", words: "tokens is 64 by default"},
		{name: "against the operator", settings: Settings{"tokens": "4"}, base: Settings{"seqs": "8"}, want: "tokens: constraint", words: "seqs is 8"},
		{name: "operator's own violation stays his", settings: Settings{"share": "0.5"}, base: Settings{"mode": "slow", "level": "7"}},
		{name: "exclude", settings: Settings{"cache": "true", "eager": "true"}, want: "cache: constraint"},
		{name: "do not exclude when off", settings: Settings{"cache": "false", "eager": "true"}},
		{name: "does not divide", settings: Settings{"mode": "fast", "level": "7"}, want: "level: constraint"},
		{name: "need not divide", settings: Settings{"level": "7"}},
		{name: "zero divides nothing", settings: Settings{"mode": "fast", "level": "0"}, want: "level: constraint"},
		{name: "empty means default", settings: Settings{"seqs": "", "tokens": ""}, base: Settings{"seqs": "900"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems := toyAt("2.5").Check(c.settings, c.base)
			got, message := "", ""
			if len(problems) > 0 {
				got, message = problems[0].GetKnob()+": "+problems[0].GetCode(), problems[0].GetMessage()
			}
			if got != c.want || !strings.Contains(message, c.words) {
				t.Errorf("got %q (%s), want %q with %q", got, message, c.want, c.words)
			}
		})
	}
}

func TestIgnore(t *testing.T) {
	table := toyAt("2.5").Ignore(map[string]string{"level": "nobody reads it", "no_knob": "x"})
	if p := table.Check(Settings{"level": "3"}, nil); len(p) != 1 || p[0].GetCode() != CodeIgnored || !strings.Contains(p[0].GetMessage(), "nobody reads it") {
		t.Errorf("got %v", p)
	}
	if p := table.Check(Settings{"level": "2"}, nil); p != nil {
		t.Errorf("the default is no change: %v", p)
	}
	if p := toyAt("2.5").Check(Settings{"level": "3"}, nil); p != nil {
		t.Errorf("the shared table was changed: %v", p)
	}
}

func TestGoneFlags(t *testing.T) {
	got := toyAt("2.5").GoneFlags([]string{"toy", "--slots=4", "--queue", "5", "--seqs", "1"})
	want := map[string]string{"--slots": "is gone since version 2.0; use --seqs", "--queue": "needs version 3.0 or newer"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags differ (-want +got):\n%s", diff)
	}
}

// FuzzArgv: whatever the command line, reading it does not crash, settings that are already there
// change nothing, and a changed knob reads back.
func FuzzArgv(f *testing.F) {
	f.Add("toy\n--seqs\n4\n-O3\n--no-cache")
	f.Add("toy\n--seqs=\n--seqs\n--\n-s\n-s\n=")
	f.Add("--eager\nFalse\n--disable_radix\n-")
	f.Fuzz(func(t *testing.T, lines string) {
		argv := strings.Split(lines, "\n")
		table := toyAt("2.5")
		base := table.Parse(argv, nil)
		if diff := cmp.Diff(argv, table.Build(argv, nil, base).Argv); diff != "" && len(base) > 0 && !hasEmpty(base) {
			t.Errorf("building what is there changed it:\n%s", diff)
		}
		built := table.Build(argv, nil, Settings{"seqs": "77", "cache": "false"})
		if built.Effective["seqs"] != "77" || built.Effective["cache"] != "false" {
			t.Errorf("%q became %q, effective %v", argv, built.Argv, built.Effective)
		}
	})
}

func hasEmpty(s Settings) bool {
	for _, v := range s {
		if v == "" {
			return true
		}
	}
	return false
}
