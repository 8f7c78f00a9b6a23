package probation

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// plugin is an engine adapter with one hot knob, queue, one hot knob without a default, depth, and
// one that needs a restart, seqs.
type plugin struct {
	applied engine.Settings
	results []*engine.KnobResult
}

func (p *plugin) Describe(context.Context, *engine.Target) (*engine.Description, error) {
	return &engine.Description{Engine: "vllm", Knobs: []*engine.Knob{
		{Name: "queue", Hot: true, DefaultValue: "100"}, {Name: "depth", Hot: true}, {Name: "seqs", DefaultValue: "64"},
	}}, nil
}

func (p *plugin) Validate(_ context.Context, _ *engine.Target, s engine.Settings) ([]*engine.Problem, error) {
	if _, ok := s["nonsense"]; ok {
		return []*engine.Problem{{Knob: "nonsense", Message: "there is no such knob"}, {Message: "the set is wrong"}}, nil
	}
	return nil, nil
}

func (p *plugin) Command(context.Context, *engine.Target, engine.Settings) (*engine.CommandLine, error) {
	return &engine.CommandLine{Argv: []string{"vllm"}}, nil
}

func (p *plugin) Apply(_ context.Context, _ *engine.Target, s engine.Settings) ([]*engine.KnobResult, error) {
	p.applied = s
	return p.results, nil
}

func bind(t *testing.T, p *plugin, base engine.Settings) *BoundAdapter {
	t.Helper()
	about, err := p.Describe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return Bind(p, func() *engine.Target { return nil }, func() *engine.Description { return about }, func() engine.Settings { return base })
}

func settings(pairs ...string) Config {
	c := Config{Engine: "vllm", Settings: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		c.Settings[pairs[i]] = pairs[i+1]
	}
	return c
}

func TestHot(t *testing.T) {
	cases := []struct {
		name     string
		from, to Config
		want     bool
	}{
		{"hot knob", settings("queue", "1"), settings("queue", "2"), true},
		{"hot knob set first", settings(), settings("queue", "2"), true},
		{"hot knob left out again", settings("queue", "2"), settings(), true},
		{"no way back", settings(), settings("depth", "2"), false},
		{"restart knob", settings("seqs", "1"), settings("seqs", "2"), false},
		{"both", settings(), settings("seqs", "2", "queue", "2"), false},
		{"restart knob left out", settings("seqs", "2"), settings("queue", "2"), false},
		{"unknown knob", settings(), settings("x", "2"), false},
		{"nothing", settings("seqs", "1"), settings("seqs", "1"), true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := bind(t, &plugin{}, nil).Hot(t.Context(), c.from, c.to); got != c.want {
				t.Errorf("hot: %v", got)
			}
		})
	}
}

func TestApplyHot(t *testing.T) {
	p := &plugin{results: []*engine.KnobResult{{Knob: "queue", Applied: true}}}
	b := bind(t, p, engine.Settings{"queue": "7"})
	if err := b.Apply(t.Context(), settings("queue", "2"), settings()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(engine.Settings{"queue": "7"}, p.applied); diff != "" {
		t.Errorf("the operator's value does not return: %s", diff)
	}
	p.results = []*engine.KnobResult{{Knob: "queue", Reason: "the engine has no such call"}}
	if err := b.Apply(t.Context(), settings(), settings("queue", "2")); err == nil || !strings.Contains(err.Error(), "no such call") {
		t.Errorf("refused by the engine: %v", err)
	}
	p.results = nil
	if err := b.Apply(t.Context(), settings(), settings("queue", "2")); err == nil {
		t.Error("silence was taken for success")
	}
}

func TestValidateInWords(t *testing.T) {
	b := bind(t, &plugin{}, nil)
	words, err := b.Validate(t.Context(), settings("nonsense", "1"))
	if diff := cmp.Diff([]string{"nonsense: there is no such knob", "the set is wrong"}, words); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	other := settings()
	other.Engine = "sglang"
	if words, err := b.Validate(t.Context(), other); err != nil || len(words) != 1 {
		t.Errorf("another engine's configuration: %v, %v", words, err)
	}
	missing := Bind(&plugin{}, nil, func() *engine.Description { return nil }, nil)
	if _, err := missing.Validate(t.Context(), settings()); err == nil || !strings.Contains(err.Error(), "plugin installed") {
		t.Errorf("no description: %v", err)
	}
}

func TestSystemClock(t *testing.T) {
	clock, err := SystemClock()
	if err != nil {
		t.Fatal(err)
	}
	a, b := clock(), clock()
	if a.BootID == "" || a.BootID != b.BootID || b.Boot < a.Boot || a.Boot <= 0 {
		t.Errorf("%+v, then %+v", a, b)
	}
}
