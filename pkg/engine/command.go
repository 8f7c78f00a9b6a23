package engine

import (
	"fmt"
	"maps"
	"slices"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Build puts settings into the operator's own command line. A knob that is absent, or that already
// has the wanted value, leaves its flags as they are, byte for byte, like everything that is not a
// knob. A changed knob is replaced where it stood, and appended where it was not. An empty value
// takes the flag out, back to the engine's default. Knobs that only the environment can set are
// returned in Env. Settings must have passed Check; what the table does not know is passed over.
func (t *Table) Build(argv []string, env map[string]string, s Settings) *CommandLine {
	b := &builder{table: t, env: env, base: t.Parse(argv, env), line: &CommandLine{Env: map[string]string{}}}
	changed := b.changes(s)
	written := b.rewrite(argv, changed)
	for _, k := range t.Knobs {
		if want, ok := changed[k.GetName()]; ok && !written[k.GetName()] {
			b.add(k, want)
		}
	}
	merged := maps.Clone(env)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, b.line.Env)
	b.line.Effective = t.Parse(b.line.Argv, merged)
	return b.line
}

type builder struct {
	table *Table
	env   map[string]string
	base  Settings
	line  *CommandLine
}

// changes keeps the settings that differ from what the operator's command line says.
func (b *builder) changes(s Settings) Settings {
	changed := Settings{}
	for name, want := range s {
		k := b.table.Knob(name)
		if k == nil {
			continue
		}
		have, set := b.base[name]
		if want == "" && !set || set && want != "" && b.table.same(k, have, want) {
			continue
		}
		changed[name] = want
	}
	return changed
}

// rewrite copies argv, with the first occurrence of each changed knob replaced and later ones left
// out. It returns the knobs that it has placed.
func (b *builder) rewrite(argv []string, changed Settings) map[string]bool {
	written := map[string]bool{}
	next := 0
	for _, o := range b.table.scan(argv) {
		want, ok := changed[o.knob.GetName()]
		if !ok {
			continue
		}
		b.line.Argv = append(b.line.Argv, argv[next:o.from]...)
		next = o.to
		if !written[o.knob.GetName()] {
			written[o.knob.GetName()] = true
			b.line.Argv = append(b.line.Argv, flagTokens(o.knob, b.table.canonical(o.knob, want), o.joined)...)
			b.silenceEnv(o.knob, want)
		}
	}
	b.line.Argv = append(b.line.Argv, argv[next:]...)
	return written
}

// add places a knob that the command line did not have.
func (b *builder) add(k *Knob, want string) {
	if k.GetFlag() == "" && k.GetNegativeFlag() == "" {
		b.addEnv(k, want)
		return
	}
	b.line.Argv = append(b.line.Argv, flagTokens(k, b.table.canonical(k, want), false)...)
	b.silenceEnv(k, want)
}

// addEnv sets a knob that has no flag.
func (b *builder) addEnv(k *Knob, want string) {
	if want == "" {
		want = k.GetDefaultValue()
	}
	if want == "" {
		b.line.Warnings = append(b.line.Warnings, fmt.Sprintf(
			"%s stays as the environment has it: %s cannot be taken out of a running container's environment", k.GetName(), k.GetEnv()))
		return
	}
	b.line.Env[k.GetEnv()] = envValue(k, b.table.canonical(k, want))
}

// silenceEnv handles a knob that is to be off while the environment switches it on and there is no
// flag to say so.
func (b *builder) silenceEnv(k *Knob, want string) {
	if _, set := b.env[k.GetEnv()]; !set || k.GetEnv() == "" {
		return
	}
	if len(flagTokens(k, b.table.canonical(k, want), false)) == 0 {
		b.addEnv(k, want)
	}
}

// flagTokens writes one knob; nothing means that leaving the flag out says it.
func flagTokens(k *Knob, value string, joined bool) []string {
	switch {
	case value == "":
		return nil
	case k.GetType() == enginev1.KnobType_KNOB_TYPE_BOOL:
		flag := k.GetFlag()
		if value == "false" {
			flag = k.GetNegativeFlag()
		}
		if flag == "" {
			return nil
		}
		return []string{flag}
	case joined:
		return []string{k.GetFlag() + "=" + value}
	}
	return []string{k.GetFlag(), value}
}

func envValue(k *Knob, value string) string {
	if k.GetType() != enginev1.KnobType_KNOB_TYPE_BOOL {
		return value
	}
	if value == "true" {
		return "1"
	}
	return "0"
}

// EnvNames lists the environment variables that the table's knobs name, sorted: what a host may
// pass in Target.Env.
func (t *Table) EnvNames() []string {
	var names []string
	for _, k := range t.Knobs {
		if k.GetEnv() != "" {
			names = append(names, k.GetEnv())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
