package probation

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// Signatures is a LogReader made of an adapter's failure signatures. Fatal keeps its place in the
// log, so it belongs to one caller.
type Signatures struct {
	list []signature
	seen []byte // the end of the log as of the last Fatal
}

type signature struct {
	pattern *regexp.Regexp
	words   string
	fatal   bool
}

// seenBytes of the log are remembered to find what is new.
const seenBytes = 512

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

// Fatal returns words for the first fatal line that is new since the last call. All that stood in
// the log at the first call is old.
func (s *Signatures) Fatal(log []byte) string {
	first := s.seen == nil
	log = log[:bytes.LastIndexByte(log, '\n')+1] // the last line may be half written
	fresh := s.fresh(log)
	s.seen = append([]byte{}, log[max(0, len(log)-seenBytes):]...)
	if first {
		return ""
	}
	for line := range bytes.Lines(fresh) {
		if words, fatal := s.match(line); fatal {
			return words
		}
	}
	return ""
}

// fresh is what follows the remembered end; all of it when that is gone from the log.
func (s *Signatures) fresh(log []byte) []byte {
	if i := bytes.LastIndex(log, s.seen); i >= 0 {
		return log[i+len(s.seen):]
	}
	return log
}

// Explain returns words for the last line that a signature recognises.
func (s *Signatures) Explain(log []byte) string {
	last := ""
	for line := range bytes.Lines(log) {
		if words, _ := s.match(line); words != "" {
			last = words
		}
	}
	return last
}

func (s *Signatures) match(line []byte) (words string, fatal bool) {
	line = bytes.TrimRight(line, "\r\n")
	for _, sig := range s.list {
		if groups := sig.pattern.FindSubmatch(line); groups != nil {
			return fill(sig.words, groups), sig.fatal
		}
	}
	return "", false
}

var place = regexp.MustCompile(`\$[1-9]`)

// fill puts the groups of a match into words.
func fill(words string, groups [][]byte) string {
	return place.ReplaceAllStringFunc(words, func(p string) string {
		i, err := strconv.Atoi(p[1:])
		if err != nil || i >= len(groups) {
			return ""
		}
		return string(groups[i])
	})
}

var _ LogReader = (*Signatures)(nil)
