// Package cli parses an engine's command line as that engine's own parser does, Python's argparse
// or Rust's clap: same spellings, same complaints. A dialect gives its flags as a table of text.
//
// It checks form only (is this a number, is that one of the choices). What values mean and whether
// they fit each other is the dialect's business.
package cli

import (
	"fmt"
	"slices"
	"strings"
)

// Grammar is the parser that the engine uses.
type Grammar int

// The two parsers.
const (
	Argparse Grammar = iota // --flag value, --flag=value, several names, unknown ones collected
	Clap                    // the same with Rust's wording; every flag has an environment form
)

// Set is one engine's command line.
type Set struct {
	Program    string
	Grammar    Grammar
	Underscore bool // --max_num_seqs is read as --max-num-seqs
	Negatable  bool // every switch has a --no- form
	Positional int  // arguments that may stand without a flag
	flags      map[string]*flag
}

type flag struct {
	dest    string
	shown   string // how errors name it, such as --port/-p
	kind    string
	choices []string
	inert   bool
}

// Kinds in a table: text, int, human (whole number that may end in k, K, m, M, g, G), float,
// switch, json, list (one or more values up to the next flag), choice.
var kinds = []string{"text", "int", "human", "float", "switch", "json", "list", "choice"}

// Define adds a table to the set. Each line reads "kind name[,alias…] [choice,choice…]"; a name
// without dashes means --name, a short one is written with its dash. Lines after one that says
// "inert" are flags which the engine has and the simulation ignores. A malformed table panics: it
// is part of the program.
func (s *Set) Define(table string) {
	if s.flags == nil {
		s.flags = map[string]*flag{}
	}
	inert := false
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == "inert":
			inert = true
		case len(fields) < 2 || !slices.Contains(kinds, fields[0]):
			panic("cli: bad table line: " + line)
		default:
			s.define(fields, inert)
		}
	}
}

func (s *Set) define(fields []string, inert bool) {
	names := strings.Split(fields[1], ",")
	f := &flag{dest: names[0], kind: fields[0], inert: inert}
	if len(fields) > 2 {
		f.choices = strings.Split(fields[2], ",")
	}
	shown := make([]string, len(names))
	for i, n := range names {
		if !strings.HasPrefix(n, "-") {
			n = "--" + n
		}
		shown[i] = n
		if s.flags[n] != nil {
			panic("cli: flag defined twice: " + n)
		}
		s.flags[n] = f
	}
	f.shown = strings.Join(shown, "/")
}

// UsageError is a refusal by the parser; the engine prints it after its usage and exits with 2.
type UsageError struct{ Text string }

func (e *UsageError) Error() string { return e.Text }

// Message is what the engine writes to its standard error for a usage error.
func (s *Set) Message(e *UsageError) string {
	if s.Grammar == Clap {
		return fmt.Sprintf("error: %s\n\nUsage: %s [OPTIONS]\n\nFor more information, try '--help'.\n", e.Text, s.Program)
	}
	return fmt.Sprintf("usage: %s [-h] [options]\n%s: error: %s\n", s.Program, s.Program, e.Text)
}
