package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Export is what a person would put into an engine's start to have a recommendation by hand.
type Export struct {
	Engine      string            `json:"engine"`
	Group       string            `json:"group"`
	Settings    map[string]string `json:"settings" doc:"all that differ from the operator's own, by knob"`
	Arguments   []string          `json:"arguments" doc:"flags to add to the engine's command line, replacing those of the same name"`
	Environment map[string]string `json:"environment,omitempty"`
	CommandLine string            `json:"command_line" doc:"both, for a shell"`
	ConfigFile  string            `json:"config_file,omitempty" doc:"YAML for the engine's --config, where it has one"`
	Pod         string            `json:"pod" doc:"YAML of a Kubernetes container: its args and env to merge"`
}

// exportOf a configuration, by the knob table of its group's engines.
func exportOf(r *commandv1.Recommendation, engine string, knobs []*enginev1.Knob) (Export, error) {
	e := Export{Engine: engine, Group: r.GetGroup(), Settings: r.GetSettings(), Arguments: []string{}, Environment: map[string]string{}}
	file := yaml.MapSlice{}
	for _, name := range slices.Sorted(maps.Keys(r.GetSettings())) {
		value := r.GetSettings()[name]
		i := slices.IndexFunc(knobs, func(k *enginev1.Knob) bool { return k.GetName() == name })
		if i < 0 {
			return e, fmt.Errorf("the engines of group %s no longer have a setting %s", r.GetGroup(), name)
		}
		k := knobs[i]
		switch {
		case k.GetFlag() == "":
			e.Environment[k.GetEnv()] = value
			continue
		case value == "true":
			e.Arguments = append(e.Arguments, k.GetFlag())
		case value == "false" && k.GetNegativeFlag() != "":
			e.Arguments = append(e.Arguments, k.GetNegativeFlag())
		case value == "false" && k.GetType() == enginev1.KnobType_KNOB_TYPE_BOOL:
			continue // a flag that is simply not given
		default:
			e.Arguments = append(e.Arguments, k.GetFlag(), value)
		}
		file = append(file, yaml.MapItem{Key: strings.TrimLeft(e.Arguments[len(e.Arguments)-arity(value)], "-"), Value: scalar(value, k)})
	}
	e.CommandLine = shellLine(e)
	if engine != "tgi" && len(file) > 0 { // vLLM and SGLang read one
		raw, err := yaml.Marshal(file)
		if err != nil {
			return e, err
		}
		e.ConfigFile = string(raw)
	}
	var err error
	e.Pod, err = e.pod()
	return e, err
}

// arity is how many arguments a value takes with its flag.
func arity(value string) int {
	if value == "true" || value == "false" {
		return 1
	}
	return 2
}

// scalar is a value as YAML knows it.
func scalar(value string, k *enginev1.Knob) any {
	if value == "true" || value == "false" && k.GetNegativeFlag() != "" {
		return true // of the flag that is given, negative or not
	}
	var v any
	if yaml.Unmarshal([]byte(value), &v) == nil {
		switch v.(type) {
		case uint64, int64, float64:
			return v
		}
	}
	return value
}

func shellLine(e Export) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e.Environment)) {
		parts = append(parts, name+"="+quoted(e.Environment[name]))
	}
	for _, a := range e.Arguments {
		parts = append(parts, quoted(a))
	}
	return strings.Join(parts, " ")
}

// quoted for a POSIX shell, where it must be.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (e Export) pod() (string, error) {
	type variable struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	}
	var container struct {
		Args []string   `yaml:"args,omitempty"`
		Env  []variable `yaml:"env,omitempty"`
	}
	container.Args = e.Arguments
	for _, name := range slices.Sorted(maps.Keys(e.Environment)) {
		container.Env = append(container.Env, variable{name, e.Environment[name]})
	}
	raw, err := yaml.Marshal(container)
	return string(raw), err
}
