package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExplain(t *testing.T) {
	d := &Description{
		Engine: "toy",
		Failures: []*FailureSignature{
			{Kind: OutOfMemory, Pattern: `needs (\d+)(?: of (\d+))? GiB`, Words: "$1GiB are needed, $2 are there, $3 costs $", Fatal: true},
			{Kind: EngineDead, Pattern: `^dead$`, Words: "it is dead"},
		},
		Progress: []*ProgressPattern{{Pattern: `loaded (\S+)`, Words: "loaded $1"}},
	}
	log := []byte("loaded weights\r\ndead\r\n  needs 3 GiB\nneeds 4 of 5 GiB\nloaded graphs")
	want := []Explained{
		{Kind: OutOfMemory, Words: "3GiB are needed,  are there,  costs $", Line: "needs 3 GiB", Fatal: true},
		{Kind: EngineDead, Words: "it is dead", Line: "dead"},
	}
	if diff := cmp.Diff(want, Explain(d, log)); diff != "" {
		t.Errorf("explanation differs (-want +got):\n%s", diff)
	}
	m, err := NewMatcher(d)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"loaded weights", "loaded graphs"}, m.Progress(log)); diff != "" {
		t.Errorf("progress differs (-want +got):\n%s", diff)
	}
	d.Failures[0].Pattern = "("
	if _, err := NewMatcher(d); err == nil {
		t.Error("a broken pattern was accepted")
	}
	if got := Explain(d, log); len(got) != 1 || got[0].Kind != EngineDead {
		t.Errorf("a broken pattern took the others with it: %v", got)
	}
}
