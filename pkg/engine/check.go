package engine

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Problem codes.
const (
	CodeUnknownKnob = "unknown_knob"
	CodeBadType     = "bad_type"
	CodeOutOfRange  = "out_of_range"
	CodeConstraint  = "constraint"
	CodeIgnored     = "ignored"
	CodeRemoved     = "removed"
)

// Check judges a complete set of settings on top of base, which is what the operator's own command
// line says (Table.Parse). It reports all problems at once, in a stable order; nil means accepted.
// An empty value stands for the engine's default and is always acceptable.
func (t *Table) Check(s, base Settings) []*Problem {
	var problems []*Problem
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if p := t.checkOne(name, s[name], base); p != nil {
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		return problems // relations between wrong values say nothing more
	}
	for _, c := range t.Constraints {
		if p := t.relate(c, s, base); p != nil {
			problems = append(problems, p)
		}
	}
	return problems
}

func (t *Table) checkOne(name, value string, base Settings) *Problem {
	k := t.Knob(name)
	if k == nil {
		return t.unknown(name)
	}
	if value == "" {
		return nil
	}
	value = t.canonical(k, value)
	if p := checkValue(k, value); p != nil {
		return p
	}
	if why := k.GetIgnoredBecause(); why != "" && !t.same(k, value, cmp.Or(base[name], k.GetDefaultValue())) {
		return &Problem{Knob: name, Code: CodeIgnored, Message: name + " would change nothing: " + why}
	}
	return nil
}

func (t *Table) unknown(name string) *Problem {
	if e, ok := t.elsewhere[name]; ok {
		return &Problem{Knob: name, Code: CodeRemoved, Message: name + " " + t.whyElsewhere(e)}
	}
	message := fmt.Sprintf("there is no knob %q", name)
	if near := t.nearest(name); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	}
	return &Problem{Knob: name, Code: CodeUnknownKnob, Message: message}
}

// checkValue judges a value's type and range.
func checkValue(k *Knob, value string) *Problem {
	if slices.Contains(k.GetValues(), value) {
		return nil
	}
	switch k.GetType() {
	case enginev1.KnobType_KNOB_TYPE_BOOL:
		if value != "true" && value != "false" {
			return badType(k, value, "true or false")
		}
	case enginev1.KnobType_KNOB_TYPE_ENUM:
		return outOfRange(k, value, "one of "+strings.Join(k.GetValues(), ", "))
	case enginev1.KnobType_KNOB_TYPE_INT:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return badType(k, value, "a whole number")
		}
		return checkRange(k, value, float64(n))
	case enginev1.KnobType_KNOB_TYPE_FLOAT:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return badType(k, value, "a number")
		}
		return checkRange(k, value, f)
	default:
		return checkText(k, value)
	}
	return nil
}

// checkText refuses text that would not arrive as this flag's value.
func checkText(k *Knob, value string) *Problem {
	if strings.HasPrefix(value, "-") || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
		return badType(k, value, "text that does not begin with a dash and has no control characters")
	}
	return nil
}

func checkRange(k *Knob, value string, v float64) *Problem {
	low := k.Min != nil && (v < k.GetMin() || k.GetMinExclusive() && v == k.GetMin())
	high := k.Max != nil && (v > k.GetMax() || k.GetMaxExclusive() && v == k.GetMax())
	if low || high {
		return outOfRange(k, value, rangeWords(k))
	}
	return nil
}

func rangeWords(k *Knob) string {
	var parts []string
	if k.Min != nil {
		parts = append(parts, choose(k.GetMinExclusive(), "above ", "at least ")+plain(k.GetMin()))
	}
	if k.Max != nil {
		parts = append(parts, choose(k.GetMaxExclusive(), "below ", "at most ")+plain(k.GetMax()))
	}
	words := strings.Join(parts, " and ")
	if len(k.GetValues()) > 0 {
		words += ", or " + strings.Join(k.GetValues(), ", ")
	}
	return words
}

func choose(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func badType(k *Knob, value, want string) *Problem {
	if len(k.GetValues()) > 0 {
		want += ", or " + strings.Join(k.GetValues(), ", ")
	}
	return &Problem{Knob: k.GetName(), Code: CodeBadType, Message: fmt.Sprintf("%s is %q and must be %s", k.GetName(), value, want)}
}

func outOfRange(k *Knob, value, want string) *Problem {
	return &Problem{Knob: k.GetName(), Code: CodeOutOfRange, Message: fmt.Sprintf("%s is %s and must be %s", k.GetName(), value, want)}
}

// relate judges one constraint. It says nothing when neither side is set by anyone, or when a
// side's value is computed at start and so not known here.
func (t *Table) relate(c *Constraint, s, base Settings) *Problem {
	given := Overlay(base, s)
	if c.GetWhenKnob() != "" && !t.equals(c.GetWhenKnob(), c.GetWhenValue(), given) {
		return nil
	}
	_, left := given[c.GetLeft()]
	_, right := given[c.GetRight()]
	if !left && !right || !t.violated(c, given) {
		return nil
	}
	return &Problem{Knob: culprit(c, s), Code: CodeConstraint, Message: t.constraintWords(c, given)}
}

// culprit names the side that the settings set; the left one when both are.
func culprit(c *Constraint, s Settings) string {
	if _, ok := s[c.GetLeft()]; !ok {
		if _, ok := s[c.GetRight()]; ok {
			return c.GetRight()
		}
	}
	return c.GetLeft()
}

func (t *Table) violated(c *Constraint, given Settings) bool {
	if c.GetComparison() == enginev1.Comparison_COMPARISON_EXCLUDES {
		return isSet(given, c.GetLeft()) && isSet(given, c.GetRight())
	}
	l, okL := t.numeric(c.GetLeft(), given)
	r, okR := t.numeric(c.GetRight(), given)
	if !okL || !okR {
		return false
	}
	switch c.GetComparison() {
	case enginev1.Comparison_COMPARISON_LESS_OR_EQUAL:
		return l > r
	case enginev1.Comparison_COMPARISON_GREATER_OR_EQUAL:
		return l < r
	case enginev1.Comparison_COMPARISON_DIVIDES:
		return l == 0 || math.Mod(r, l) != 0
	}
	return false
}

func isSet(given Settings, name string) bool { return given[name] != "" && given[name] != "false" }

// value of a knob: as given, else its default if that is known.
func (t *Table) value(name string, given Settings) string {
	k := t.Knob(name)
	if k == nil {
		return given[name]
	}
	if v, ok := given[name]; ok {
		return t.canonical(k, v)
	}
	return k.GetDefaultValue()
}

func (t *Table) equals(name, want string, given Settings) bool {
	k := t.Knob(name)
	return k != nil && t.same(k, t.value(name, given), want)
}

func (t *Table) numeric(name string, given Settings) (float64, bool) {
	v, err := strconv.ParseFloat(t.value(name, given), 64)
	return v, err == nil
}

func (t *Table) constraintWords(c *Constraint, given Settings) string {
	side := func(name string) string {
		v := t.value(name, given)
		if _, ok := given[name]; !ok {
			return fmt.Sprintf("%s is %s by default", name, v)
		}
		return fmt.Sprintf("%s is %s", name, v)
	}
	return fmt.Sprintf("%s (%s, %s)", c.GetText(), side(c.GetLeft()), side(c.GetRight()))
}

// nearest returns the knob name that was probably meant: the owner of a flag or neutral name given
// in its place, or the closest spelling.
func (t *Table) nearest(name string) string {
	for _, k := range t.Knobs {
		if name != "" && (name == k.GetFlag() || name == k.GetNeutral() || name == k.GetEnv() || slices.Contains(k.GetAliases(), name)) {
			return k.GetName()
		}
	}
	plainName := strings.ReplaceAll(strings.TrimLeft(name, "-"), "-", "_")
	best, distance := "", max(2, len(plainName)/3)+1
	for _, k := range t.Knobs {
		if d := editDistance(plainName, k.GetName()); d < distance {
			best, distance = k.GetName(), d
		}
	}
	return best
}

// editDistance counts the insertions, deletions and replacements of bytes between two words.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
