package probation

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// Signatures is a LogReader made of an adapter's failure signatures.
type Signatures struct{ list []signature }

type signature struct {
	pattern *regexp.Regexp
	words   string
	fatal   bool
}

// CompileSignatures returns an error that names a pattern that is not a regular expression.
func CompileSignatures(failures []*engine.FailureSignature) (*Signatures, error) {
	s := &Signatures{}
	for _, f := range failures {
		p, err := regexp.Compile(f.GetPattern())
		if err != nil {
			return nil, fmt.Errorf("failure signature %q of the adapter: %w", f.GetPattern(), err)
		}
		s.list = append(s.list, signature{pattern: p, words: f.GetWords(), fatal: f.GetFatal()})
	}
	return s, nil
}

// Fatal returns words for the first fatal line.
func (s *Signatures) Fatal(log string) string {
	for line := range strings.Lines(log) {
		if words, fatal := s.match(line); fatal {
			return words
		}
	}
	return ""
}

// Explain returns words for the last line that a signature recognises.
func (s *Signatures) Explain(log string) string {
	last := ""
	for line := range strings.Lines(log) {
		if words, _ := s.match(line); words != "" {
			last = words
		}
	}
	return last
}

func (s *Signatures) match(line string) (words string, fatal bool) {
	line = strings.TrimRight(line, "\r\n")
	for _, sig := range s.list {
		if groups := sig.pattern.FindStringSubmatch(line); groups != nil {
			return fill(orElse(sig.words, line), groups), sig.fatal
		}
	}
	return "", false
}

var place = regexp.MustCompile(`\$[1-9]`)

// fill puts the groups of a match into words.
func fill(words string, groups []string) string {
	return place.ReplaceAllStringFunc(words, func(p string) string {
		i, err := strconv.Atoi(p[1:])
		if err != nil || i >= len(groups) {
			return ""
		}
		return groups[i]
	})
}

var _ LogReader = (*Signatures)(nil)
