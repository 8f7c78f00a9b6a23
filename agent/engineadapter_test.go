package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// fixedLauncher reports one status.
type fixedLauncher struct {
	noLauncher
	status launch.Status
}

func (f fixedLauncher) Status(context.Context) (launch.Status, error) { return f.status, nil }

func launched() launch.Status {
	base := launch.Spec{Argv: []string{"fake", "serve"}, Env: map[string]string{"FAKE_SEATS": "8", "SECRET": "x"}, Fingerprint: "base", Grace: 40 * time.Second}
	current := launch.Spec{Argv: []string{"fake", "serve", "--size", "2"}, Env: base.Env, Fingerprint: "abc", Epoch: 5}
	return launch.Status{State: launch.Running, Base: base, Current: current}
}

func describedAdapter(t *testing.T, fake fakeAdapter) *engineAdapter {
	t.Helper()
	if fake.describe == nil {
		fake.describe = describeFake
	}
	a := &engineAdapter{all: fakeAdapters{"fake": fake}, launcher: fixedLauncher{status: launched()}, url: "http://engine/"}
	if _, _, _, err := a.describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestDescribeFindsTheAdapter(t *testing.T) {
	stranger := fakeAdapter{describe: func(*engine.Target) (*engine.Description, error) { return &engine.Description{Engine: "other"}, nil }}
	for _, c := range []struct {
		name, configured string
		all              fakeAdapters
		want             string
		says             string
	}{
		{"the one that recognises it", "", fakeAdapters{"broken": nil, "other": stranger, "fake": fakeAdapter{describe: describeFake}}, "fake", ""},
		{"the configured one, recognised or not", "other", fakeAdapters{"other": stranger, "fake": fakeAdapter{describe: describeFake}}, "other", ""},
		{"none does", "", fakeAdapters{"other": stranger}, "", "no adapter recognises the engine"},
		{"none can be used", "", fakeAdapters{"broken": nil}, "", "was changed"},
		{"the configured one is missing", "fake", fakeAdapters{}, "", "was changed: fake"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &engineAdapter{all: c.all, launcher: noLauncher{}, url: "http://engine", name: c.configured}
			d, _, changed, err := a.describe(t.Context())
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want one saying %q", err, c.says)
				}
				return
			}
			if err != nil || d.GetEngine() != c.want || !changed {
				t.Errorf("engine %q, changed %v, error %v", d.GetEngine(), changed, err)
			}
			if _, _, again, _ := a.describe(t.Context()); again {
				t.Error("the same description counts as a change")
			}
		})
	}
}

// What runs now is described with its own arguments; epoch 0 with the operator's.
func TestDescribeKnowsTheBase(t *testing.T) {
	var targets []*engine.Target
	a := describedAdapter(t, fakeAdapter{describe: func(target *engine.Target) (*engine.Description, error) {
		targets = append(targets, target)
		return describeFake(target)
	}})
	if a.described().GetEffective()["argv"] != "fake serve --size 2" || a.base["argv"] != "fake serve" {
		t.Errorf("running %v, base %v", a.described().GetEffective(), a.base)
	}
	if targets[0].GetBaseUrl() != "http://engine" || targets[1].GetBaseUrl() != "" || targets[1].GetVersion() != "1.2.3" {
		t.Errorf("asked about %v", targets)
	}
	if _, _, _, err := a.describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"FAKE_SEATS": "8"}, targets[2].GetEnv()); diff != "" {
		t.Errorf("the adapter saw more of the environment than its knobs name (-want +got):\n%s", diff)
	}
}

func TestValidateAnswersInWords(t *testing.T) {
	a := describedAdapter(t, fakeAdapter{validate: func(s engine.Settings) []*engine.Problem {
		if s["size"] == "0" {
			return []*engine.Problem{{Knob: "size", Message: "must be above 0"}, {Message: "these do not fit together"}}
		}
		return nil
	}})
	for _, c := range []struct {
		config probation.Config
		want   []string
	}{
		{probation.Config{Engine: "fake", Settings: map[string]string{"size": "1"}}, nil},
		{probation.Config{Engine: "fake", Settings: map[string]string{"size": "0"}}, []string{"size: must be above 0", "these do not fit together"}},
		{probation.Config{Engine: "vllm"}, []string{"the settings are for vllm, this engine is fake"}},
	} {
		got, err := a.Validate(t.Context(), c.config)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.config, diff)
		}
	}
}

func TestCommandBuildsOnTheOperatorsOwn(t *testing.T) {
	a := describedAdapter(t, fakeAdapter{
		describe: func(target *engine.Target) (*engine.Description, error) {
			d, err := describeFake(target)
			d.Stop = &engine.Stop{KilledIsClean: true, DefaultGrace: durationpb.New(10 * time.Second), GraceKnob: "shutdown_timeout"}
			return d, err
		},
		command: func(target *engine.Target, s engine.Settings) *engine.CommandLine {
			return &engine.CommandLine{Argv: append(target.GetArgv(), "--size", s["size"]), Env: map[string]string{"FAKE_MODE": "fast"}}
		},
	})
	got, err := a.Command(t.Context(), probation.Config{Settings: map[string]string{"size": "9"}})
	if err != nil {
		t.Fatal(err)
	}
	want := launch.Spec{
		Argv: []string{"fake", "serve", "--size", "9"}, Env: map[string]string{"FAKE_SEATS": "8", "SECRET": "x", "FAKE_MODE": "fast"},
		Grace: 40 * time.Second, KilledIsClean: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	long, err := a.Command(t.Context(), probation.Config{Settings: map[string]string{"size": "9", "shutdown_timeout": "120"}})
	if err != nil || long.Grace != 135*time.Second {
		t.Errorf("grace %v (%v); the launcher would kill an engine that drains for 120 s", long.Grace, err)
	}
	a.launcher = noLauncher{}
	if _, err := a.Command(t.Context(), probation.Config{}); err == nil {
		t.Error("a command line was built on nothing")
	}
}

func TestHotAndApply(t *testing.T) {
	var applied engine.Settings
	a := describedAdapter(t, fakeAdapter{apply: func(s engine.Settings) []*engine.KnobResult {
		applied = s
		if s["seats"] == "99" {
			return []*engine.KnobResult{{Knob: "seats", Reason: "the engine has 64 at most"}}
		}
		return []*engine.KnobResult{{Knob: "seats", Applied: true}}
	}})
	config := func(settings ...string) probation.Config {
		c := probation.Config{Settings: map[string]string{}}
		for i := 0; i < len(settings); i += 2 {
			c.Settings[settings[i]] = settings[i+1]
		}
		return c
	}
	for _, c := range []struct {
		name     string
		from, to probation.Config
		hot      bool
		want     engine.Settings
	}{
		{"a hot knob", config(), config("seats", "16"), true, engine.Settings{"seats": "16"}},
		{"back to the operator's value", config("seats", "16"), config(), true, engine.Settings{"seats": "8"}},
		{"nothing changes", config(), config("seats", "8"), false, nil},
		{"a cold knob", config(), config("size", "2"), false, nil},
		{"both", config(), config("size", "2", "seats", "16"), false, nil},
		{"back to a value nobody knows", config("size", "2"), config(), false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := a.Hot(t.Context(), c.from, c.to); got != c.hot {
				t.Fatalf("hot %v, want %v", got, c.hot)
			}
			if !c.hot {
				return
			}
			if err := a.Apply(t.Context(), c.from, c.to); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, applied); diff != "" {
				t.Errorf("applied (-want +got):\n%s", diff)
			}
		})
	}
	if err := a.Apply(t.Context(), config(), config("seats", "99")); err == nil || !strings.Contains(err.Error(), "64 at most") {
		t.Errorf("a setting that did not take: %v", err)
	}
	undescribed := &engineAdapter{all: fakeAdapters{}, launcher: noLauncher{}, url: "http://engine"}
	if _, err := undescribed.Validate(t.Context(), config()); !errors.Is(err, errNoAdapter) {
		t.Errorf("without an adapter: %v", err)
	}
}
