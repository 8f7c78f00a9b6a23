package enginetest

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// ParserOption is one option of an engine's own argument parser, as the engine's package says.
type ParserOption struct {
	Flags      []string           `json:"flags"`
	Takes      string             `json:"takes"` // none, one, optional, many
	Type       string             `json:"type"`
	Default    *string            `json:"default"` // nil: decided at start
	Choices    []string           `json:"choices"`
	Range      map[string]float64 `json:"range"` // ge, gt, le, lt; nil: not told
	Group      string             `json:"group"` // of the help text
	Deprecated bool               `json:"deprecated"`
}

// ParserOptions compare a knob table with the argument parser of a release.
type ParserOptions struct {
	// File holds the parser's options, made from the engine's package; Report is the golden file of
	// the comparison.
	File, Report string
	// Different gives the reason for each difference that stays, by "knob: what".
	Different map[string]string
	// Unmanaged gives the reason why options are no knobs; the first pattern that matches a flag or a
	// group counts, and each option that is no knob must match one.
	Unmanaged []Unmanaged
}

// Unmanaged is a family of options that the adapter leaves to the operator.
type Unmanaged struct {
	Pattern string // of the flag without its dashes, or of "group:" and the group's title
	Why     string
}

// Parser compares the adapter's table with the parser of the release that the file names. It fails
// on differences without a reason and on reasons without a difference.
func Parser(t *testing.T, a engine.Adapter, o ParserOptions) {
	t.Helper()
	version, options := ReadParser(t, o.File)
	d, err := a.Describe(t.Context(), &engine.Target{Version: version})
	if err != nil {
		t.Fatal(err)
	}
	report := compareParser(d.GetKnobs(), options)
	var b strings.Builder
	fmt.Fprintf(&b, "release %s: %d options, %d knobs\n", version, len(options), len(d.GetKnobs()))
	used := map[string]bool{}
	for _, difference := range report.differences {
		key, _, _ := strings.Cut(difference, " (")
		used[key] = true
		why := o.Different[key]
		if why == "" {
			t.Errorf("%s: correct the table, or give the reason why it stays", difference)
		}
		fmt.Fprintf(&b, "different: %s: %s\n", difference, why)
	}
	for key := range o.Different {
		if !used[key] {
			t.Errorf("there is no difference %q any more: take its reason out", key)
		}
	}
	unmanaged(t, &b, report.unmanaged, o.Unmanaged)
	golden(t, o.Report, b.String())
}

// ReadParser reads a file of parser options.
func ReadParser(t testing.TB, file string) (version string, options []ParserOption) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Version string         `json:"version"`
		Options []ParserOption `json:"options"`
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(all.Options) == 0 {
		t.Fatalf("%s has no options", file)
	}
	return all.Version, all.Options
}

// unmanaged prints the options that are no knobs, by reason.
func unmanaged(t *testing.T, b *strings.Builder, options []ParserOption, reasons []Unmanaged) {
	t.Helper()
	by := make([][]string, len(reasons))
	for _, option := range options {
		i := slices.IndexFunc(reasons, func(u Unmanaged) bool {
			re := regexp.MustCompile("^(?:" + u.Pattern + ")$")
			return re.MatchString(strings.TrimLeft(option.Flags[0], "-")) || re.MatchString("group:"+option.Group)
		})
		if i < 0 {
			t.Errorf("%s (group %q) is no knob: make it one, or give the reason why not", option.Flags[0], option.Group)
			continue
		}
		by[i] = append(by[i], option.Flags[0])
	}
	for i, u := range reasons {
		if len(by[i]) == 0 {
			t.Errorf("the reason %q fits no option any more", u.Pattern)
		}
		fmt.Fprintf(b, "no knobs, %s: %s\n", u.Why, strings.Join(by[i], " "))
	}
}

type parserReport struct {
	differences []string // "knob: what (ours, theirs)"
	unmanaged   []ParserOption
}

func compareParser(knobs []*engine.Knob, options []ParserOption) parserReport {
	var r parserReport
	byFlag := map[string]*ParserOption{}
	managed := map[*ParserOption]bool{}
	for i := range options {
		for _, f := range options[i].Flags {
			byFlag[f] = &options[i]
		}
	}
	for _, k := range knobs {
		for _, difference := range r.compare(k, byFlag, managed) {
			r.differences = append(r.differences, k.GetName()+": "+difference)
		}
	}
	for i := range options {
		if !managed[&options[i]] {
			r.unmanaged = append(r.unmanaged, options[i])
		}
	}
	return r
}

func (r *parserReport) compare(k *engine.Knob, byFlag map[string]*ParserOption, managed map[*ParserOption]bool) (found []string) {
	var main *ParserOption
	for _, flag := range append([]string{k.GetFlag(), k.GetNegativeFlag()}, k.GetAliases()...) {
		switch option := optionFor(flag, byFlag); {
		case flag == "":
		case option == nil:
			found = append(found, "unknown flag "+flag)
		default:
			managed[option] = true
			if main == nil {
				main = option
			}
		}
	}
	if main == nil {
		return found // an environment variable, or reported as unknown
	}
	for _, flag := range main.Flags {
		spelled := append([]string{k.GetFlag(), k.GetNegativeFlag()}, k.GetAliases()...)
		if !slices.Contains(spelled, flag) {
			found = append(found, "missing spelling "+flag)
		}
	}
	if main.Deprecated {
		found = append(found, "deprecated")
	}
	return slices.Concat(found, compareType(k, main), compareDefault(k, main), compareChoices(k, main), compareRange(k, main))
}

// compareType: a switch takes nothing and everything else takes one value.
func compareType(k *engine.Knob, o *ParserOption) []string {
	want := "one"
	if k.GetType() == engine.Bool {
		want = "none"
	}
	if o.Takes != want && (want != "none" || o.Takes != "optional") {
		return []string{fmt.Sprintf("type (ours takes %s, theirs %s)", want, o.Takes)}
	}
	whole := o.Type == "int" || strings.HasPrefix(o.Type, "human_readable_int")
	if o.Takes == "one" && (k.GetType() == engine.Int && o.Type == "float" || k.GetType() == engine.Float && whole) {
		return []string{fmt.Sprintf("type (ours %v, theirs %s)", k.GetType(), o.Type)}
	}
	return nil
}

func compareDefault(k *engine.Knob, o *ParserOption) []string {
	ours, theirs := k.GetDefaultValue(), ""
	if o.Default != nil {
		theirs = *o.Default
	}
	if k.GetFlag() == "" && o.Takes == "none" { // only the negative form exists
		theirs = map[string]string{"true": "false", "false": "true"}[theirs]
	}
	if ours == theirs || sameNumber(ours, theirs) {
		return nil
	}
	return []string{fmt.Sprintf("default (ours %q, theirs %q)", ours, theirs)}
}

// optionFor finds a flag, or the one option that it is short for: argparse takes the beginning of a
// long flag when no other begins so.
func optionFor(flag string, byFlag map[string]*ParserOption) *ParserOption {
	if option := byFlag[flag]; option != nil || !strings.HasPrefix(flag, "--") {
		return option
	}
	var found *ParserOption
	for name, option := range byFlag {
		if !strings.HasPrefix(name, flag) || option == found {
			continue
		}
		if found != nil {
			return nil // short for several: refused
		}
		found = option
	}
	return found
}

func sameNumber(a, b string) bool {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && x == y
}

func compareChoices(k *engine.Knob, o *ParserOption) []string {
	if k.GetType() != engine.Enum || len(o.Choices) == 0 {
		return nil
	}
	ours := slices.Sorted(slices.Values(k.GetValues()))
	theirs := slices.Sorted(slices.Values(o.Choices))
	if cmp.Equal(ours, theirs) {
		return nil
	}
	without := func(from, these []string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(from), func(v string) bool { return slices.Contains(these, v) }), " ")
	}
	return []string{fmt.Sprintf("choices (only ours %q, only theirs %q)", without(ours, theirs), without(theirs, ours))}
}

func compareRange(k *engine.Knob, o *ParserOption) []string {
	if len(o.Range) == 0 {
		return nil
	}
	theirs := &engine.Knob{}
	for bound, v := range o.Range {
		switch bound {
		case "gt", "ge":
			theirs.Min, theirs.MinExclusive = new(v), bound == "gt"
		default:
			theirs.Max, theirs.MaxExclusive = new(v), bound == "lt"
		}
	}
	if k.GetType() == engine.Int && theirs.MinExclusive { // above 0 is from 1 on
		theirs.Min, theirs.MinExclusive = new(theirs.GetMin()+1), false
	}
	if rangeOf(k) == rangeOf(theirs) {
		return nil
	}
	return []string{fmt.Sprintf("range (ours %s, theirs %s)", rangeOf(k), rangeOf(theirs))}
}
