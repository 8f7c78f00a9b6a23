package probation

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// BoundAdapter makes an Adapter of an engine plugin and one engine.
type BoundAdapter struct {
	plugin engine.Adapter
	target func() *engine.Target
	about  func() *engine.Description
	base   func() engine.Settings
}

// Bind returns the Adapter of one engine. target says how to reach it; about is the plugin's newest
// description of it, nil while there is none; base are the settings of epoch 0, as the operator
// started it. All are asked each time.
func Bind(plugin engine.Adapter, target func() *engine.Target, about func() *engine.Description, base func() engine.Settings) *BoundAdapter {
	return &BoundAdapter{plugin: plugin, target: target, about: about, base: base}
}

// Validate has the plugin's word on the settings.
func (b *BoundAdapter) Validate(ctx context.Context, c Config) ([]string, error) {
	about := b.about()
	if about == nil {
		return nil, fmt.Errorf("the engine has not been described yet; is its plugin installed?")
	}
	if c.Engine != about.GetEngine() {
		return []string{fmt.Sprintf("the configuration is for %q, this engine is %q", c.Engine, about.GetEngine())}, nil
	}
	problems, err := b.plugin.Validate(ctx, b.target(), engine.Settings(c.Settings))
	if err != nil {
		return nil, err
	}
	var words []string
	for _, p := range problems {
		if p.GetKnob() == "" {
			words = append(words, p.GetMessage())
			continue
		}
		words = append(words, p.GetKnob()+": "+p.GetMessage())
	}
	return words, nil
}

// Command has the plugin build the command line.
func (b *BoundAdapter) Command(ctx context.Context, c Config) (launch.Spec, error) {
	line, err := b.plugin.Command(ctx, b.target(), engine.Settings(c.Settings))
	if err != nil {
		return launch.Spec{}, err
	}
	stop := b.about().GetStop()
	return launch.Spec{
		Argv: line.Argv, Env: line.Env,
		Grace: stop.GetDefaultGrace().AsDuration(), KilledIsClean: stop.GetKilledIsClean(),
	}, nil
}

// Hot reports whether the two configurations differ in hot knobs only. A knob that would return to
// an unknown default is not hot.
func (b *BoundAdapter) Hot(_ context.Context, from, to Config) bool {
	knobs := b.knobs()
	for name, value := range b.change(from, to) {
		if k := knobs[name]; k == nil || !k.GetHot() || value == "" {
			return false
		}
	}
	for name, value := range b.change(to, from) { // the way back must be hot as well
		if value == "" || !knobs[name].GetHot() {
			return false
		}
	}
	return true
}

// Apply changes the hot knobs in which the configurations differ.
func (b *BoundAdapter) Apply(ctx context.Context, from, to Config) error {
	change := b.change(from, to)
	if len(change) == 0 {
		return nil
	}
	results, err := b.plugin.Apply(ctx, b.target(), change)
	if err != nil {
		return err
	}
	took := map[string]bool{}
	for _, r := range results {
		if !r.GetApplied() {
			return fmt.Errorf("%s was not changed: %s", r.GetKnob(), r.GetReason())
		}
		took[r.GetKnob()] = true
	}
	for _, name := range slices.Sorted(maps.Keys(change)) {
		if !took[name] {
			return fmt.Errorf("%s was not changed: the adapter did not say why", name)
		}
	}
	return nil
}

func (b *BoundAdapter) knobs() map[string]*engine.Knob {
	knobs := map[string]*engine.Knob{}
	for _, k := range b.about().GetKnobs() {
		knobs[k.GetName()] = k
	}
	return knobs
}

// change is what must be set to get from one configuration to the other. A knob that the new one
// leaves out goes back to the operator's value or the engine's default; empty when neither is known.
func (b *BoundAdapter) change(from, to Config) engine.Settings {
	change := engine.Settings{}
	for name, value := range to.Settings {
		if old, ok := from.Settings[name]; !ok || old != value {
			change[name] = value
		}
	}
	knobs, base := b.knobs(), b.base()
	for name := range from.Settings {
		if _, ok := to.Settings[name]; ok {
			continue
		}
		change[name] = knobs[name].GetDefaultValue()
		if value, ok := base[name]; ok {
			change[name] = value
		}
	}
	return change
}

var _ Adapter = (*BoundAdapter)(nil)
