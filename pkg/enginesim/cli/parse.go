package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Args are the values given on a command line.
type Args struct {
	Positional []string
	// Inert lists the flags given that the simulation accepts and ignores.
	Inert  []string
	values map[string]string
}

// Parse reads argv (without the program). Its error is a *UsageError.
func (s *Set) Parse(argv []string) (*Args, error) {
	p := &parser{set: s, rest: argv, args: &Args{values: map[string]string{}}}
	for len(p.rest) > 0 {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if len(p.unknown) > 0 {
		return nil, &UsageError{"unrecognized arguments: " + strings.Join(p.unknown, " ")}
	}
	return p.args, nil
}

// SetEnv gives each flag without a value the one of its environment form, as clap does:
// --max-batch-size is MAX_BATCH_SIZE.
func (s *Set) SetEnv(a *Args, env func(string) string) error {
	for _, f := range s.flags {
		name := strings.ToUpper(strings.ReplaceAll(f.dest, "-", "_"))
		v := env(name)
		if v == "" || a.Has(f.dest) {
			continue
		}
		if f.kind == "switch" {
			if v = strings.ToLower(v); v == "0" || v == "false" {
				continue
			}
		}
		if err := s.check(f, v); err != nil {
			return err
		}
		a.store(f, v)
	}
	return nil
}

type parser struct {
	set     *Set
	rest    []string
	unknown []string
	args    *Args
}

func (p *parser) next() error {
	arg := p.rest[0]
	p.rest = p.rest[1:]
	if !isFlag(arg) {
		return p.positional(arg)
	}
	name, value, joined := strings.Cut(arg, "=")
	if p.set.Underscore {
		name = strings.ReplaceAll(name, "_", "-")
	}
	f, on := p.lookup(name)
	if f == nil {
		return p.unrecognised(arg)
	}
	if f.kind == "switch" {
		if joined {
			return p.set.fail(f, "ignored explicit argument "+quote(value))
		}
		p.args.store(f, strconv.FormatBool(on))
		return nil
	}
	return p.value(f, name, value, joined)
}

func (p *parser) value(f *flag, name, value string, joined bool) error {
	if !joined {
		if len(p.rest) == 0 || isFlag(p.rest[0]) {
			return p.missing(f)
		}
		value, p.rest = p.rest[0], p.rest[1:]
	}
	for f.kind == "list" && len(p.rest) > 0 && !isFlag(p.rest[0]) {
		value += " " + p.rest[0]
		p.rest = p.rest[1:]
	}
	if _, _, dotted := strings.Cut(name, "."); !dotted {
		if err := p.set.check(f, value); err != nil {
			return err
		}
	}
	p.args.store(f, value)
	return nil
}

func (p *parser) missing(f *flag) error {
	if p.set.Grammar == Clap {
		return &UsageError{fmt.Sprintf("a value is required for '%s' but none was supplied", p.set.placeholder(f))}
	}
	if f.kind == "list" {
		return p.set.fail(f, "expected at least one argument")
	}
	return p.set.fail(f, "expected one argument")
}

func (p *parser) positional(arg string) error {
	if len(p.args.Positional) < p.set.Positional && len(p.unknown) == 0 {
		p.args.Positional = append(p.args.Positional, arg)
		return nil
	}
	return p.unrecognised(arg)
}

func (p *parser) unrecognised(arg string) error {
	if p.set.Grammar == Clap {
		name, _, _ := strings.Cut(arg, "=")
		return &UsageError{fmt.Sprintf("unexpected argument '%s' found", name)}
	}
	p.unknown = append(p.unknown, arg)
	return nil
}

// lookup finds a flag by name; on is false for the --no- form of a switch.
func (p *parser) lookup(name string) (f *flag, on bool) {
	if f := p.set.flags[name]; f != nil {
		return f, true
	}
	if base, ok := strings.CutPrefix(name, "--no-"); ok && p.set.Negatable {
		if f := p.set.flags["--"+base]; f != nil && f.kind == "switch" {
			return f, false
		}
	}
	if base, _, ok := strings.Cut(name, "."); ok {
		if f := p.set.flags[base]; f != nil && f.kind == "json" {
			return f, true
		}
	}
	return nil, false
}

func (s *Set) check(f *flag, v string) error {
	bad := func(what string) error { return s.invalid(f, what, v) }
	switch f.kind {
	case "int":
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return bad("int")
		}
	case "human":
		if _, err := humanInt(v); err != nil {
			return bad("human_readable_int")
		}
	case "float":
		if _, err := strconv.ParseFloat(v, 64); err != nil {
			return bad("float")
		}
	case "json":
		if !json.Valid([]byte(v)) {
			return bad("loads")
		}
	case "choice":
		if !slices.Contains(f.choices, v) {
			return s.badChoice(f, v)
		}
	}
	return nil
}

func (s *Set) invalid(f *flag, what, v string) error {
	if s.Grammar == Clap {
		reason := map[string]string{"int": "invalid digit found in string", "float": "invalid float literal"}[what]
		return &UsageError{fmt.Sprintf("invalid value '%s' for '%s': %s", v, s.placeholder(f), reason)}
	}
	return s.fail(f, fmt.Sprintf("invalid %s value: %s", what, quote(v)))
}

func (s *Set) badChoice(f *flag, v string) error {
	if s.Grammar == Clap {
		return &UsageError{fmt.Sprintf("invalid value '%s' for '%s'\n  [possible values: %s]", v, s.placeholder(f), strings.Join(f.choices, ", "))}
	}
	quoted := make([]string, len(f.choices))
	for i, c := range f.choices {
		quoted[i] = quote(c)
	}
	return s.fail(f, fmt.Sprintf("invalid choice: %s (choose from %s)", quote(v), strings.Join(quoted, ", ")))
}

func (s *Set) fail(f *flag, text string) error {
	return &UsageError{fmt.Sprintf("argument %s: %s", f.shown, text)}
}

// placeholder is clap's way to name a flag with a value.
func (s *Set) placeholder(f *flag) string {
	return "--" + f.dest + " <" + strings.ToUpper(strings.ReplaceAll(f.dest, "-", "_")) + ">"
}

func (a *Args) store(f *flag, v string) {
	a.values[f.dest] = v
	if f.inert && !slices.Contains(a.Inert, f.dest) {
		a.Inert = append(a.Inert, f.dest)
	}
}

// Given lists the flags with a value, sorted.
func (a *Args) Given() []string { return slices.Sorted(maps.Keys(a.values)) }

// Has reports whether the flag was given.
func (a *Args) Has(name string) bool { _, ok := a.values[name]; return ok }

// Text returns the flag's value, def when it was not given.
func (a *Args) Text(name, def string) string {
	if v, ok := a.values[name]; ok {
		return v
	}
	return def
}

// Int returns a whole number; human forms such as 8k are read.
func (a *Args) Int(name string, def int) int {
	if v, ok := a.values[name]; ok {
		if n, err := humanInt(v); err == nil {
			return n
		}
	}
	return def
}

// Float returns a number.
func (a *Args) Float(name string, def float64) float64 {
	if v, ok := a.values[name]; ok {
		if x, err := strconv.ParseFloat(v, 64); err == nil {
			return x
		}
	}
	return def
}

// Bool returns whether a switch is on.
func (a *Args) Bool(name string, def bool) bool {
	if v, ok := a.values[name]; ok {
		return v != "false" && v != "0"
	}
	return def
}

// isFlag tells flags from values: a negative number is a value.
func isFlag(arg string) bool {
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	_, err := strconv.ParseFloat(arg, 64)
	return err != nil
}

var suffixes = map[byte]float64{'k': 1e3, 'K': 1 << 10, 'm': 1e6, 'M': 1 << 20, 'g': 1e9, 'G': 1 << 30}

// humanInt reads 8192, 8k (8000), 8K (8192), 1.5M and so on.
func humanInt(v string) (int, error) {
	if n, err := strconv.Atoi(v); err == nil {
		return n, nil
	}
	if v == "" || suffixes[v[len(v)-1]] == 0 {
		return 0, strconv.ErrSyntax
	}
	x, err := strconv.ParseFloat(v[:len(v)-1], 64)
	if err != nil || x < 0 || x > 1e12 {
		return 0, strconv.ErrSyntax
	}
	return int(x * suffixes[v[len(v)-1]]), nil
}

func quote(v string) string { return "'" + strings.ReplaceAll(v, "'", `\'`) + "'" }
