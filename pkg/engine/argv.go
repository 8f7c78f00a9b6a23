package engine

import (
	"maps"
	"strconv"
	"strings"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// occurrence of a managed flag: argv[from:to].
type occurrence struct {
	knob     *Knob
	from, to int
	value    string
	joined   bool // written --flag=value
	broken   bool // the value is missing
}

// Parse reads the knobs that an engine's environment and command line set. The command line wins
// over the environment and a later flag over an earlier one, as all three engines have it. Flags
// that the table does not know are passed over, dotted and JSON forms included.
func (t *Table) Parse(argv []string, env map[string]string) Settings {
	s := Settings{}
	for _, k := range t.Knobs {
		if v, ok := env[k.GetEnv()]; ok && k.GetEnv() != "" && v != "" {
			s[k.GetName()] = t.canonical(k, v)
		}
	}
	for _, o := range t.scan(argv) {
		if !o.broken {
			s[o.knob.GetName()] = t.canonical(o.knob, o.value)
		}
	}
	return s
}

// scan finds the managed flags in argv, in order.
func (t *Table) scan(argv []string) []occurrence {
	var found []occurrence
	for i := 0; i < len(argv); {
		o, ok := t.at(argv, i)
		if !ok {
			i++
			continue
		}
		found = append(found, o)
		i = o.to
	}
	return found
}

// at reads the managed flag that begins at argv[i], if one does.
func (t *Table) at(argv []string, i int) (occurrence, bool) {
	token := argv[i]
	if !strings.HasPrefix(token, "-") {
		return occurrence{}, false
	}
	name, inline, hasInline := strings.Cut(token, "=")
	sp, ok := t.flags[t.dashed(name)]
	if !ok {
		return t.glued(token, i)
	}
	o := occurrence{knob: sp.knob, from: i, to: i + 1, value: inline, joined: hasInline}
	switch {
	case sp.negative:
		o.value = "false"
	case sp.knob.GetType() == enginev1.KnobType_KNOB_TYPE_BOOL:
		o.boolean(argv, hasInline)
	case !hasInline && i+1 < len(argv) && isValue(argv[i+1]):
		o.value, o.to = argv[i+1], i+2
	case !hasInline:
		o.broken = true
	}
	return o, true
}

// boolean reads a switch: bare, --flag=false, or an old-style --flag False.
func (o *occurrence) boolean(argv []string, hasInline bool) {
	if hasInline {
		return
	}
	o.value = "true"
	if o.to < len(argv) {
		if next := strings.ToLower(argv[o.to]); next == "true" || next == "false" {
			o.value = next
			o.to++
		}
	}
}

// glued reads a one-letter flag with its number attached: -O3.
func (t *Table) glued(token string, i int) (occurrence, bool) {
	if len(token) < 3 || token[1] == '-' {
		return occurrence{}, false
	}
	sp, ok := t.flags[token[:2]]
	if !ok || sp.negative {
		return occurrence{}, false
	}
	if _, err := strconv.ParseFloat(token[2:], 64); err != nil {
		return occurrence{}, false
	}
	return occurrence{knob: sp.knob, from: i, to: i + 1, value: token[2:]}, true
}

func (t *Table) dashed(flag string) string {
	if t.underscores && strings.HasPrefix(flag, "--") {
		return strings.ReplaceAll(flag, "_", "-")
	}
	return flag
}

// isValue tells a flag's value from the next flag; -1 is a value.
func isValue(token string) bool {
	if !strings.HasPrefix(token, "-") {
		return true
	}
	_, err := strconv.ParseFloat(token, 64)
	return err == nil
}

// canonical rewrites a value so that equal settings are equal texts.
func (t *Table) canonical(k *Knob, value string) string {
	if k.GetType() == enginev1.KnobType_KNOB_TYPE_BOOL {
		switch strings.ToLower(value) {
		case "true", "1", "yes", "on":
			return "true"
		case "false", "0", "no", "off":
			return "false"
		}
		return value
	}
	if t.normalize != nil {
		return t.normalize(k, value)
	}
	return value
}

// same compares two values of a knob as the engine would: 0.9 is 0.90.
func (t *Table) same(k *Knob, a, b string) bool {
	a, b = t.canonical(k, a), t.canonical(k, b)
	if a == b {
		return true
	}
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && x == y
}

// Overlay returns base with s on top; an empty value in s takes the knob out.
func Overlay(base, s Settings) Settings {
	merged := Settings{}
	maps.Copy(merged, base)
	for name, v := range s {
		if v == "" {
			delete(merged, name)
			continue
		}
		merged[name] = v
	}
	return merged
}
