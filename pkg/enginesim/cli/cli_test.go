package cli

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const table = `
text   model
int    port,-p
human  budget
float  share
switch eager
json   config,-c
list   names
choice kind a,b
inert
switch quiet
`

func argparse() *Set {
	s := &Set{Program: "serve", Grammar: Argparse, Underscore: true, Negatable: true, Positional: 1}
	s.Define(table)
	return s
}

func clap() *Set {
	s := &Set{Program: "launcher", Grammar: Clap}
	s.Define(table)
	return s
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name string
		argv []string
		want map[string]string
	}{
		{"forms", []string{"--model=m", "-p", "80", "--share", "0.5"}, map[string]string{"model": "m", "port": "80", "share": "0.5"}},
		{"switches", []string{"--eager", "--no-quiet"}, map[string]string{"eager": "true", "quiet": "false"}},
		{"list", []string{"--names", "a", "b", "--eager"}, map[string]string{"names": "a b", "eager": "true"}},
		{"dotted", []string{"--config.depth.mode", "3"}, map[string]string{"config": "3"}},
		{"negative number is a value", []string{"--port", "-1"}, map[string]string{"port": "-1"}},
		{"underscores", []string{"--no_eager"}, map[string]string{"eager": "false"}},
		{"last wins", []string{"--port", "1", "--port", "2"}, map[string]string{"port": "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := argparse().Parse(c.argv)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, a.values); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestComplaints(t *testing.T) {
	for _, c := range []struct {
		set  *Set
		argv []string
		want string
	}{
		{argparse(), []string{"m", "--wrong", "5"}, "unrecognized arguments: --wrong 5"},
		{argparse(), []string{"--port", "x"}, "argument --port/-p: invalid int value: 'x'"},
		{argparse(), []string{"--share"}, "argument --share: expected one argument"},
		{argparse(), []string{"--names"}, "argument --names: expected at least one argument"},
		{argparse(), []string{"--kind", "c"}, "argument --kind: invalid choice: 'c' (choose from 'a', 'b')"},
		{argparse(), []string{"--config", "{"}, "argument --config/-c: invalid loads value: '{'"},
		{argparse(), []string{"--eager=1"}, "argument --eager: ignored explicit argument '1'"},
		{clap(), []string{"--wrong=5"}, "unexpected argument '--wrong' found"},
		{clap(), []string{"--port", "x"}, "invalid value 'x' for '--port <PORT>': invalid digit found in string"},
		{clap(), []string{"--port"}, "a value is required for '--port <PORT>' but none was supplied"},
		{clap(), []string{"--no-eager"}, "unexpected argument '--no-eager' found"},
		{clap(), []string{"stray"}, "unexpected argument 'stray' found"},
	} {
		_, err := c.set.Parse(c.argv)
		if usage, ok := errors.AsType[*UsageError](err); !ok || usage.Text != c.want {
			t.Errorf("%v: %v, want %s", c.argv, err, c.want)
		}
	}
}

func TestValues(t *testing.T) {
	a, err := argparse().Parse([]string{"m", "--budget", "8k", "--share", ".5", "--no-eager", "--quiet"})
	if err != nil {
		t.Fatal(err)
	}
	if a.Int("budget", 0) != 8000 || a.Int("port", 7) != 7 || a.Float("share", 0) != .5 || a.Bool("eager", true) || a.Text("kind", "a") != "a" {
		t.Errorf("values read wrong: %v", a.values)
	}
	if diff := cmp.Diff([]string{"quiet"}, a.Inert); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]int{"8K": 8192, "1.5k": 1500, "2M": 2 << 20, "12": 12} {
		if n, err := humanInt(text); err != nil || n != want {
			t.Errorf("humanInt(%s) = %d, %v; want %d", text, n, err, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	env := map[string]string{"PORT": "99", "EAGER": "false", "SHARE": "0.25"}
	s := clap()
	a, _ := s.Parse([]string{"--share", "0.5"})
	if err := s.SetEnv(a, func(k string) string { return env[k] }); err != nil {
		t.Fatal(err)
	}
	if a.Int("port", 0) != 99 || a.Bool("eager", false) || a.Float("share", 0) != .5 {
		t.Errorf("values read wrong: %v", a.values)
	}
	env["PORT"] = "x"
	a, _ = s.Parse(nil)
	if s.SetEnv(a, func(k string) string { return env[k] }) == nil {
		t.Error("PORT=x was accepted")
	}
}

func FuzzParse(f *testing.F) {
	for _, arg := range []string{"--port", "--config.a=1", "-p", "--no-eager", "--", "-", "--=", "8k"} {
		f.Add(arg, "1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, s := range []*Set{argparse(), clap()} {
			args, err := s.Parse([]string{a, b})
			if _, usage := errors.AsType[*UsageError](err); (args == nil) == (err == nil) || err != nil && !usage {
				t.Errorf("Parse(%q, %q) = %v, %v", a, b, args, err)
			}
		}
	})
}
