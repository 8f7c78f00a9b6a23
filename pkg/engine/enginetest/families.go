package enginetest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// FamiliesOptions compare what an adapter reads with what a release exports.
type FamiliesOptions struct {
	// File holds the names of the families that a real engine of Version exported after traffic, one a
	// line; Report is the golden file of the comparison.
	Version, File, Report string
	// Also holds names that other releases, front ends and settings export; empty: none.
	Also string
	// LeftOut gives the reason why families are not read; the first pattern that matches a name
	// counts, and each family that is not read must match one.
	LeftOut []Unmanaged
	// Argv switches on what is read only with a setting.
	Argv []string
}

// seriesOf lists all series that a signal is read from.
func seriesOf(s *engine.Signal) []string {
	out := []string{s.GetSeries()}
	if by := s.GetDivideBy(); by != "" {
		out = append(out, by)
	}
	for _, more := range s.GetPlus() {
		out = append(out, seriesOf(more)...)
	}
	return out
}

// Families fails on families that are neither read nor left out for a reason, and on reasons that fit
// none.
func Families(t *testing.T, a engine.Adapter, o FamiliesOptions) {
	t.Helper()
	names := strings.Fields(string(mustRead(t, o.File)))
	if o.Also != "" {
		names = append(names, strings.Fields(string(mustRead(t, o.Also)))...)
	}
	d, err := a.Describe(t.Context(), &engine.Target{Version: o.Version, Argv: o.Argv})
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]bool{}
	for _, s := range d.GetSignals() {
		for _, series := range seriesOf(s) {
			read[series] = true
		}
	}
	var mapped []string
	left := make([][]string, len(o.LeftOut))
	for _, name := range names {
		if read[name] {
			mapped = append(mapped, name)
			continue
		}
		i := slices.IndexFunc(o.LeftOut, func(u Unmanaged) bool {
			return regexp.MustCompile("^(?:" + u.Pattern + ")$").MatchString(name)
		})
		if i < 0 {
			t.Errorf("%s is exported and not read: read it, or give the reason why not", name)
			continue
		}
		left[i] = append(left[i], name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "release %s\nread: %s\n", o.Version, strings.Join(mapped, " "))
	for i, u := range o.LeftOut {
		if len(left[i]) == 0 {
			t.Errorf("the reason %q fits no family any more", u.Pattern)
		}
		fmt.Fprintf(&b, "not read, %s: %s\n", u.Why, strings.Join(left[i], " "))
	}
	golden(t, o.Report, b.String())
}
