package contract

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Fact is one thing that a step showed. Values may have several lines.
type Fact struct {
	Step, Name, Value string
}

// Absent is the value of a fact that was not seen.
const Absent = "(absent)"

// Facts in the order they were seen.
type Facts []Fact

// find returns the value of a fact.
func (fs Facts) find(step, name string) (string, bool) {
	i := slices.IndexFunc(fs, func(f Fact) bool { return f.Step == step && f.Name == name })
	if i < 0 {
		return Absent, false
	}
	return fs[i].Value, true
}

// Format writes facts as a golden file: a [step] line, then "name: value" lines; further lines of a
// value begin with a tab.
func (fs Facts) Format() string {
	var b strings.Builder
	step := ""
	for _, f := range fs {
		if f.Step != step {
			fmt.Fprintf(&b, "\n[%s]\n", f.Step)
			step = f.Step
		}
		fmt.Fprintf(&b, "%s: %s\n", f.Name, strings.ReplaceAll(f.Value, "\n", "\n\t"))
	}
	return b.String()
}

// ReadGolden reads a golden file; lines that begin with # are for people.
func ReadGolden(file string) (Facts, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open the recorded facts: %w", err)
	}
	defer f.Close()
	var fs Facts
	step := ""
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		more, continued := strings.CutPrefix(line, "\t")
		switch {
		case line == "", line[0] == '#':
		case continued && len(fs) > 0:
			fs[len(fs)-1].Value += "\n" + more
		case line[0] == '[' && line[len(line)-1] == ']':
			step = line[1 : len(line)-1]
		default:
			name, value, ok := strings.Cut(line, ": ")
			if !ok || step == "" {
				return nil, fmt.Errorf("%s:%d: want [step], name: value or a tab", file, n)
			}
			fs = append(fs, Fact{step, name, value})
		}
	}
	return fs, lines.Err()
}

// Difference is a fact that the simulated engine cannot show as the real one does.
type Difference struct {
	Step, Fact string // a * at the end stands for any rest
	Simulated  string // what it shows instead; "*" where that varies
	Why        string
}

func (d Difference) about(f Fact) bool { return like(d.Step, f.Step) && like(d.Fact, f.Name) }

func like(pattern, s string) bool {
	if head, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, head)
	}
	return pattern == s
}

// Compare says in words where seen differs from want, apart from the differences known. A known one
// that is not there is a complaint too.
func Compare(want, seen Facts, known []Difference) (complaints []string) {
	used := make([]bool, len(known))
	for _, f := range union(want, seen) {
		w, _ := want.find(f.Step, f.Name)
		s, _ := seen.find(f.Step, f.Name)
		i := slices.IndexFunc(known, func(d Difference) bool { return d.about(f) })
		switch {
		case i >= 0 && w == s:
			complaints = append(complaints, fmt.Sprintf("[%s] %s is no longer different: strike it from the known differences (%s)", f.Step, f.Name, known[i].Why))
			used[i] = true
		case i >= 0 && (known[i].Simulated == "*" || known[i].Simulated == s):
			used[i] = true
		case w != s:
			complaints = append(complaints, fmt.Sprintf("[%s] %s\n  want %s\n  seen %s", f.Step, f.Name, w, s))
		}
	}
	for i, d := range known {
		if !used[i] {
			complaints = append(complaints, fmt.Sprintf("known difference [%s] %s was not met", d.Step, d.Fact))
		}
	}
	return complaints
}

// union has every step and name once, in the order of want, then of seen.
func union(want, seen Facts) Facts {
	out := slices.Clone(want)
	for _, f := range seen {
		if _, ok := want.find(f.Step, f.Name); !ok {
			out = append(out, f)
		}
	}
	return out
}
