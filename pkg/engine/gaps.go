package engine

import (
	"slices"
	"strings"
)

// Gap is something that an engine's page does not tell although answers rest on it.
type Gap struct {
	// Signals of the same gap, in the order of SignalNames.
	Signals []string
	// Series that would tell it, best first.
	Series []string
	// Without says what is not known because of it.
	Without string
}

// Gaps lists what a page does not tell of the signals that an adapter maps. What is on the page
// decides, and not the engine's version, which may be unknown (empty); the version only tells
// whether a series can still come that appears with its first event.
func Gaps(signals []*Signal, found map[string]Reading, version string) []Gap {
	v, _ := ParseVersion(version)
	worked := served(found)
	var gaps []Gap
	for _, info := range signalNames {
		alternatives := alternativesOf(signals, info.Name)
		if info.Without == "" || len(alternatives) == 0 || tells(found, info.Name) || tells(found, info.Or) || stillToCome(alternatives, v, worked) {
			continue
		}
		gaps = addGap(gaps, info, alternatives)
	}
	return gaps
}

func tells(found map[string]Reading, signal string) bool {
	_, ok := found[signal]
	return ok
}

// served reports whether the page shows that requests were served.
func served(found map[string]Reading) bool {
	for _, name := range []string{"requests_finished", "generation_tokens", "e2e_seconds"} {
		if found[name].Value > 0 {
			return true
		}
	}
	return false
}

func alternativesOf(signals []*Signal, name string) (all []*Signal) {
	for _, s := range signals {
		if s.GetSignal() == name {
			all = append(all, s)
		}
	}
	return all
}

// stillToCome reports whether one of the alternatives may appear later, in this release.
func stillToCome(alternatives []*Signal, v Version, worked bool) bool {
	return slices.ContainsFunc(alternatives, func(s *Signal) bool {
		switch s.GetAppears() {
		case AfterFirstEvent:
			return v.Within(s.GetSince(), s.GetGone())
		case AfterFirstRequest:
			return !worked && v.Within(s.GetSince(), s.GetGone())
		}
		return false
	})
}

// addGap joins signals that are missed for the same thing.
func addGap(gaps []Gap, info SignalInfo, alternatives []*Signal) []Gap {
	i := slices.IndexFunc(gaps, func(g Gap) bool { return g.Without == info.Without })
	if i < 0 {
		gaps, i = append(gaps, Gap{Without: info.Without}), len(gaps)
	}
	g := &gaps[i]
	g.Signals = append(g.Signals, info.Name)
	for _, s := range alternatives {
		name := s.GetSeries()
		if by := s.GetDivideBy(); by != "" {
			name += " with " + by
		}
		if !slices.Contains(g.Series, name) {
			g.Series = append(g.Series, name)
		}
	}
	return gaps
}

// GapWords is one warning for all gaps; empty without any.
func GapWords(gaps []Gap) string {
	if len(gaps) == 0 {
		return ""
	}
	parts := make([]string, len(gaps))
	for i, g := range gaps {
		parts[i] = g.Without + " (no " + strings.Join(g.Series, " or ") + ")"
	}
	return "the metrics page does not tell " + strings.Join(parts, "; ")
}
