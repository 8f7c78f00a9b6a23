package engine

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
)

// Entry is a knob with the releases that have it. A knob whose default or range changed has several
// entries with the same name and adjoining spans.
type Entry struct {
	Since string // first release with it; empty: always there
	Gone  string // first release without it; empty: still there
	// Instead says what to use where the knob is gone: "--stream-interval", or a sentence.
	Instead string
	Knob    *Knob
}

// Rule is a constraint with the releases in which the engine enforces it.
type Rule struct {
	Since, Gone string
	Constraint  *Constraint
}

// Catalog holds all knobs of an engine over all its releases. It is plain data, written once.
type Catalog struct {
	Entries []Entry
	Rules   []Rule
	// Underscores: the engine's parser takes --max_num_seqs for --max-num-seqs.
	Underscores bool
	// Normalize rewrites a value as the engine would read it (8k → 8000); nil: as it stands.
	Normalize func(k *Knob, value string) string
}

// At returns the table for one version. An unknown version gets what the newest release has.
func (c *Catalog) At(v Version) *Table {
	t := &Table{
		Version:     v,
		underscores: c.Underscores,
		normalize:   c.Normalize,
		byName:      map[string]*Knob{},
		elsewhere:   map[string]Entry{},
	}
	for _, e := range c.Entries {
		name := e.Knob.GetName()
		if !v.Within(e.Since, e.Gone) {
			t.elsewhere[name] = e
			continue
		}
		if t.byName[name] == nil {
			t.Knobs = append(t.Knobs, e.Knob)
			t.byName[name] = e.Knob
		}
	}
	for name := range t.byName {
		delete(t.elsewhere, name)
	}
	for _, r := range c.Rules {
		if v.Within(r.Since, r.Gone) {
			t.Constraints = append(t.Constraints, r.Constraint)
		}
	}
	t.flags = flagsOf(t.Knobs)
	return t
}

// Table is what one release of an engine can be told. Build it with Catalog.At; it is not changed
// afterwards and may be shared.
type Table struct {
	Version     Version
	Knobs       []*Knob
	Constraints []*Constraint

	underscores bool
	normalize   func(*Knob, string) string
	byName      map[string]*Knob
	elsewhere   map[string]Entry // knobs of other releases only
	flags       map[string]spelling
}

// Knob returns the knob of that name, or nil.
func (t *Table) Knob(name string) *Knob { return t.byName[name] }

// Ignore returns a table in which the named knobs do nothing, each with the reason: what the rest
// of the settings switches off. Names that the table lacks are passed over.
func (t *Table) Ignore(why map[string]string) *Table {
	if len(why) == 0 {
		return t
	}
	with := *t
	with.Knobs = slices.Clone(t.Knobs)
	with.byName = maps.Clone(t.byName)
	for i, k := range with.Knobs {
		if reason, ok := why[k.GetName()]; ok {
			clone := proto.CloneOf(k)
			clone.IgnoredBecause = reason
			with.Knobs[i] = clone
			with.byName[k.GetName()] = clone
		}
	}
	with.flags = flagsOf(with.Knobs)
	return &with
}

// spelling of a knob on a command line.
type spelling struct {
	knob     *Knob
	negative bool
}

func flagsOf(knobs []*Knob) map[string]spelling {
	flags := map[string]spelling{}
	for _, k := range knobs {
		for _, f := range append([]string{k.GetFlag()}, k.GetAliases()...) {
			if f != "" {
				flags[f] = spelling{knob: k}
			}
		}
		if f := k.GetNegativeFlag(); f != "" {
			flags[f] = spelling{knob: k, negative: true}
		}
	}
	return flags
}

// GoneFlags lists the flags in argv that belong to knobs of other releases, with what to use
// instead: the engine of this version refuses to start with them.
func (t *Table) GoneFlags(argv []string) map[string]string {
	found := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(t.elsewhere)) {
		e := t.elsewhere[name]
		for flag := range flagsOf([]*Knob{e.Knob}) {
			for _, token := range argv {
				written, _, _ := strings.Cut(token, "=")
				if _, current := t.flags[flag]; !current && t.dashed(written) == flag {
					found[flag] = t.whyElsewhere(e)
				}
			}
		}
	}
	return found
}

// whyElsewhere says in words why this release lacks a knob.
func (t *Table) whyElsewhere(e Entry) string {
	why := "is not known to this version"
	switch s, ok := ParseVersion(e.Since); {
	case ok && t.Version.Known() && t.Version.Compare(s) < 0:
		why = "needs version " + e.Since + " or newer"
	case e.Gone != "":
		why = "is gone since version " + e.Gone
	}
	if e.Instead != "" {
		why += "; use " + e.Instead
	}
	return why
}
