package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// adapters hands out engine adapters by name. An adapter stays usable for as long as its host
// runs, restarts of its plugin included.
type adapters interface {
	// Names of all adapters there are.
	Names() []string
	// Adapter by name; an error in words when it is missing or cannot be trusted.
	Adapter(ctx context.Context, name string) (engine.Adapter, error)
}

var errNoAdapter = errors.New("no adapter recognises the engine")

// engineAdapter is what is known of one engine: its adapter, once found, and its newest
// description. Its methods may be called from any goroutine.
type engineAdapter struct {
	all      adapters
	launcher probation.Launcher
	url      string

	mu          sync.Mutex // guards what follows
	name        string     // of the adapter; empty until it is found
	description *engine.Description
	base        map[string]string // settings of epoch 0
}

var _ probation.Adapter = (*engineAdapter)(nil)

// described is the newest description; nil before the first.
func (a *engineAdapter) described() *engine.Description {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.description
}

func (a *engineAdapter) probes() *engine.Probes { return a.described().GetProbes() }

// describe asks the adapter anew and returns the description with the settings of epoch 0.
// changed tells whether either differs from before.
func (a *engineAdapter) describe(ctx context.Context) (d *engine.Description, base map[string]string, changed bool, err error) {
	status, _ := a.launcher.Status(ctx) // without a launcher the adapter knows less
	running := a.target(status.Current)
	adapter, d, err := a.find(ctx, running)
	if err != nil {
		return nil, nil, false, err
	}
	base = d.GetEffective()
	if !status.Current.Same(status.Base) && len(status.Base.Argv) > 0 {
		own := a.target(status.Base)
		own.BaseUrl, own.Version = "", d.GetVersion() // the server answers for what runs now
		if b, err := adapter.Describe(ctx, own); err == nil {
			base = b.GetEffective()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = !proto.Equal(d, a.description) || !maps.Equal(base, a.base)
	if changed {
		a.description, a.base = d, base
	}
	a.name = d.GetEngine()
	return a.description, a.base, changed, nil
}

// find returns the configured adapter or the first that recognises the engine.
func (a *engineAdapter) find(ctx context.Context, t *engine.Target) (engine.Adapter, *engine.Description, error) {
	a.mu.Lock()
	name := a.name
	a.mu.Unlock()
	if name != "" {
		one, err := a.all.Adapter(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		d, err := one.Describe(ctx, t)
		return one, d, err
	}
	var faults []error
	for _, candidate := range a.all.Names() {
		one, err := a.all.Adapter(ctx, candidate)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if d, err := one.Describe(ctx, t); err == nil && engine.Recognized(d) {
			return one, d, nil
		}
	}
	if len(faults) > 0 {
		return nil, nil, errors.Join(faults...)
	}
	return nil, nil, fmt.Errorf("%w at %s (asked: %s); it may not be up yet, or name the adapter in the configuration (engine)",
		errNoAdapter, a.url, strings.Join(a.all.Names(), ", "))
}

// target is the engine as an adapter needs to know it.
func (a *engineAdapter) target(s launch.Spec) *engine.Target {
	t := &engine.Target{BaseUrl: strings.TrimRight(a.url, "/"), Argv: s.Argv}
	d := a.described()
	for _, k := range d.GetKnobs() {
		if v, ok := s.Env[k.GetEnv()]; ok && k.GetEnv() != "" {
			if t.Env == nil {
				t.Env = map[string]string{}
			}
			t.Env[k.GetEnv()] = v
		}
	}
	return t
}

// own is the adapter with the operator's command line as target.
func (a *engineAdapter) own(ctx context.Context) (engine.Adapter, *engine.Target, launch.Spec, error) {
	status, err := a.launcher.Status(ctx)
	if err != nil {
		return nil, nil, launch.Spec{}, err
	}
	a.mu.Lock()
	name, version := a.name, a.description.GetVersion()
	a.mu.Unlock()
	if name == "" {
		return nil, nil, launch.Spec{}, fmt.Errorf("%w at %s yet", errNoAdapter, a.url)
	}
	one, err := a.all.Adapter(ctx, name)
	t := a.target(status.Base)
	t.Version = version
	return one, t, status.Base, err
}

// Validate returns words against a configuration.
func (a *engineAdapter) Validate(ctx context.Context, c probation.Config) ([]string, error) {
	one, t, _, err := a.own(ctx)
	if err != nil {
		return nil, err
	}
	if d := a.described(); c.Engine != "" && c.Engine != d.GetEngine() {
		return []string{fmt.Sprintf("the settings are for %s, this engine is %s", c.Engine, d.GetEngine())}, nil
	}
	problems, err := one.Validate(ctx, t, c.Settings)
	if err != nil {
		return nil, fmt.Errorf("validate: %w", err)
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

// Command builds what the launcher is to run.
func (a *engineAdapter) Command(ctx context.Context, c probation.Config) (launch.Spec, error) {
	one, t, base, err := a.own(ctx)
	if err != nil {
		return launch.Spec{}, err
	}
	if len(base.Argv) == 0 {
		return launch.Spec{}, errors.New("the operator's own command line is not known, so no other can be built on it")
	}
	cmd, err := one.Command(ctx, t, c.Settings)
	if err != nil {
		return launch.Spec{}, fmt.Errorf("command: %w", err)
	}
	stop := a.described().GetStop()
	spec := launch.Spec{Argv: cmd.Argv, Env: maps.Clone(base.Env), Grace: base.Grace, KilledIsClean: stop.GetKilledIsClean()}
	if len(cmd.Env) > 0 && spec.Env == nil {
		spec.Env = map[string]string{}
	}
	maps.Copy(spec.Env, cmd.Env)
	spec.Grace = max(spec.Grace, stop.GetDefaultGrace().AsDuration(), graceSet(stop, c.Settings))
	return spec, nil
}

// graceSet is the grace that the settings give the engine itself, and some time to exit; the
// launcher must not kill it before.
func graceSet(stop *engine.Stop, settings map[string]string) time.Duration {
	d, err := time.ParseDuration(settings[stop.GetGraceKnob()] + "s")
	if err != nil || d < 0 {
		return 0
	}
	return d + 15*time.Second
}

// changes are the settings that differ between two configurations, as they are in to; one that is
// in from alone goes back to the operator's own value. ok is false when that is not known.
func (a *engineAdapter) changes(from, to probation.Config) (changed engine.Settings, ok bool) {
	a.mu.Lock()
	base := a.base
	a.mu.Unlock()
	value := func(c probation.Config, knob string) (string, bool) {
		if v, set := c.Settings[knob]; set {
			return v, true
		}
		v, known := base[knob]
		return v, known
	}
	knobs := slices.Collect(maps.Keys(from.Settings))
	knobs = slices.AppendSeq(knobs, maps.Keys(to.Settings))
	changed = engine.Settings{}
	for _, k := range knobs {
		was, known := value(from, k)
		is, ok := value(to, k)
		if !ok {
			return nil, false
		}
		if !known || was != is {
			changed[k] = is
		}
	}
	return changed, true
}

// Hot reports whether the running engine can be changed without a restart.
func (a *engineAdapter) Hot(_ context.Context, from, to probation.Config) bool {
	changed, ok := a.changes(from, to)
	if !ok || len(changed) == 0 {
		return false
	}
	hot := map[string]bool{}
	for _, k := range a.described().GetKnobs() {
		hot[k.GetName()] = k.GetHot()
	}
	for k := range changed {
		if !hot[k] {
			return false
		}
	}
	return true
}

// Apply changes the running engine; an error says which setting did not take.
func (a *engineAdapter) Apply(ctx context.Context, from, to probation.Config) error {
	one, t, _, err := a.own(ctx)
	if err != nil {
		return err
	}
	changed, ok := a.changes(from, to)
	if !ok {
		return errors.New("a setting would have to go back to a value that is not known")
	}
	results, err := one.Apply(ctx, t, changed)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	var faults []error
	for _, r := range results {
		if !r.GetApplied() {
			faults = append(faults, fmt.Errorf("%s was not applied: %s", r.GetKnob(), r.GetReason()))
		}
	}
	return errors.Join(faults...)
}
