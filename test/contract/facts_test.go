package contract

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGoldenRoundTrip(t *testing.T) {
	want := Facts{{"a", "status", "200"}, {"a", "events", "one\ntwo"}, {"b: c", "vllm:x_total{a=\"b\"}", "+1"}}
	file := filepath.Join(t.TempDir(), "x.golden")
	if err := os.WriteFile(file, []byte("# for people\n"+want.Format()), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadGolden(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompare(t *testing.T) {
	want := Facts{{"s", "a", "1"}, {"s", "b", "2"}, {"s", "python_info", "x"}}
	for _, c := range []struct {
		name  string
		seen  Facts
		known []Difference
		words []string // one per complaint
	}{
		{"equal", want, nil, nil},
		{"other value", Facts{{"s", "a", "9"}, {"s", "b", "2"}, {"s", "python_info", "x"}}, nil, []string{"want 1"}},
		{"missing and extra", Facts{{"s", "a", "1"}, {"s", "c", "3"}}, []Difference{{"s", "python_*", Absent, "no Python"}}, []string{"[s] b", "[s] c"}},
		{"known", Facts{{"s", "a", "9"}, {"s", "b", "2"}}, []Difference{{"s", "a", "9", "w"}, {"s", "python_*", Absent, "w"}}, nil},
		{"known, but another", Facts{{"s", "a", "8"}, {"s", "b", "2"}, {"s", "python_info", "x"}}, []Difference{{"s", "a", "9", "w"}}, []string{"want 1", "not met"}},
		{"vanished", want, []Difference{{"s", "a", "9", "w"}}, []string{"no longer different"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Compare(want, c.seen, c.known)
			if len(got) != len(c.words) {
				t.Fatalf("complaints %q, want %d", got, len(c.words))
			}
			for i, w := range c.words {
				if !strings.Contains(got[i], w) {
					t.Errorf("complaint %q, want %q in it", got[i], w)
				}
			}
		})
	}
}
