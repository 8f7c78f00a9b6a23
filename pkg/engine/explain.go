package engine

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Explained is a failure found in a log, in words.
type Explained struct {
	Kind  enginev1.FailureKind
	Words string // what happened and what to do
	Line  string // the line that showed it
	// Fatal: a running engine that logs this is to be taken out of rotation at once.
	Fatal bool
}

// Matcher recognises one engine's failures and start-up steps in its log. It is safe for
// concurrent use.
type Matcher struct {
	failures []failure
	progress []progress
}

type failure struct {
	pattern   *regexp.Regexp
	signature *FailureSignature
}

type progress struct {
	pattern *regexp.Regexp
	words   string
}

// NewMatcher compiles the patterns of a description. A pattern that does not compile is an error.
func NewMatcher(d *Description) (*Matcher, error) {
	m := &Matcher{}
	for _, f := range d.GetFailures() {
		re, err := regexp.Compile(f.GetPattern())
		if err != nil {
			return nil, fmt.Errorf("failure signature of %s: %w", d.GetEngine(), err)
		}
		m.failures = append(m.failures, failure{re, f})
	}
	for _, p := range d.GetProgress() {
		re, err := regexp.Compile(p.GetPattern())
		if err != nil {
			return nil, fmt.Errorf("progress pattern of %s: %w", d.GetEngine(), err)
		}
		m.progress = append(m.progress, progress{re, p.GetWords()})
	}
	return m, nil
}

// Failures returns what the log shows, at most once per signature, in the order of the adapter's
// table: the most telling signature first.
func (m *Matcher) Failures(log []byte) []Explained {
	var found []Explained
	for _, f := range m.failures {
		line, words, ok := firstMatch(f.pattern, f.signature.GetWords(), log)
		if !ok {
			continue
		}
		found = append(found, Explained{
			Kind: f.signature.GetKind(), Words: words, Line: line, Fatal: f.signature.GetFatal(),
		})
	}
	return found
}

// Progress returns the words of the start-up steps in the order in which the log shows them.
func (m *Matcher) Progress(log []byte) []string {
	var steps []string
	for line := range bytes.Lines(log) {
		for _, p := range m.progress {
			if groups := p.pattern.FindStringSubmatch(trimEOL(line)); groups != nil {
				steps = append(steps, expand(p.words, groups))
				break
			}
		}
	}
	return steps
}

// Explain is NewMatcher and Failures in one; patterns that do not compile are passed over.
func Explain(d *Description, log []byte) []Explained {
	usable := &Description{Engine: d.GetEngine()}
	for _, f := range d.GetFailures() {
		if _, err := regexp.Compile(f.GetPattern()); err == nil {
			usable.Failures = append(usable.Failures, f)
		}
	}
	m, err := NewMatcher(usable)
	if err != nil {
		return nil
	}
	return m.Failures(log)
}

func firstMatch(re *regexp.Regexp, words string, log []byte) (line, explained string, ok bool) {
	for raw := range bytes.Lines(log) {
		text := trimEOL(raw)
		if groups := re.FindStringSubmatch(text); groups != nil {
			return strings.TrimSpace(text), expand(words, groups), true
		}
	}
	return "", "", false
}

func trimEOL(line []byte) string { return strings.TrimRight(string(line), "\r\n") }

// expand replaces $1 … $9 by the pattern's groups; an absent group leaves nothing.
func expand(words string, groups []string) string {
	var b strings.Builder
	for i := 0; i < len(words); i++ {
		if words[i] == '$' && i+1 < len(words) && words[i+1] >= '1' && words[i+1] <= '9' {
			if n := int(words[i+1] - '0'); n < len(groups) {
				b.WriteString(groups[n])
			}
			i++
			continue
		}
		b.WriteByte(words[i])
	}
	return b.String()
}
