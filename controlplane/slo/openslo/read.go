package openslo

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Result of reading.
type Result struct {
	Objectives []*commandv1.Objective
	// Remarks tell what was taken otherwise than somebody may have meant it.
	Remarks []string
}

// reader collects what documents say, by kind and name.
type reader struct {
	problems   Problems
	remarks    []string
	slos       []located[sloSpec]
	slis       map[string]sliSpec
	policies   map[string]policySpec
	conditions map[string]conditionSpec
	targets    map[string]bool
	sources    map[string]dataSourceSpec
	services   map[string]bool
	named      map[string]int // lines of documents, by kind and name
}

// located is a document with where it stands.
type located[S any] struct {
	object[S]
	line int
}

// Read takes objectives from OpenSLO v1 documents in YAML: one, several, or a list of them. Documents may
// refer to one another, not to what was read before. The error is Problems, all that there are.
func Read(raw []byte) (Result, error) {
	nodes, problems := split(raw)
	r := &reader{
		problems: problems, slis: map[string]sliSpec{}, policies: map[string]policySpec{}, conditions: map[string]conditionSpec{},
		targets: map[string]bool{}, sources: map[string]dataSourceSpec{}, services: map[string]bool{}, named: map[string]int{},
	}
	for _, n := range nodes {
		r.take(n)
	}
	if len(r.problems) == 0 && len(r.slos) == 0 {
		r.problem(0, "", "there is no document of kind SLO")
	}
	var found []*commandv1.Objective
	names := map[string]bool{}
	for _, s := range r.slos {
		for _, o := range r.objectives(s) {
			if names[o.GetName()] {
				r.problem(s.line, "SLO "+s.Metadata.Name, "objective %s appears twice", o.GetName())
			}
			names[o.GetName()] = true
			found = append(found, o)
		}
	}
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
		return Result{}, r.problems
	}
	return Result{Objectives: found, Remarks: r.remarks}, nil
}

func (r *reader) problem(line int, object, format string, args ...any) {
	r.problems = append(r.problems, Problem{Line: line, Object: object, Text: fmt.Sprintf(format, args...)})
}

func (r *reader) remark(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, old := range r.remarks {
		if old == text {
			return
		}
	}
	r.remarks = append(r.remarks, text)
}

// header of a document, as far as it can be made out.
func header(node ast.Node) (version, kind, name string) {
	scalar := func(n ast.Node) string {
		if s, ok := n.(*ast.StringNode); ok {
			return s.Value
		}
		return ""
	}
	for key, v := range pairs(node) {
		switch key {
		case "apiVersion":
			version = scalar(v)
		case "kind":
			kind = scalar(v)
		case "metadata":
			name = scalar(pairs(v)["name"])
		}
	}
	return version, kind, name
}

func pairs(node ast.Node) map[string]ast.Node {
	found := map[string]ast.Node{}
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			found[v.Key.GetToken().Value] = v.Value
		}
	case *ast.MappingValueNode:
		found[n.Key.GetToken().Value] = n.Value
	}
	return found
}

// take one document.
func (r *reader) take(node ast.Node) {
	line := lineOf(node)
	version, kind, name := header(node)
	object := strings.TrimSpace(kind + " " + name)
	switch {
	case version != Version:
		r.problem(line, object, "apiVersion %q is not read; use %s", version, Version)
		return
	case name == "":
		r.problem(line, object, "it has no metadata.name")
		return
	}
	if first, twice := r.named[object]; twice {
		r.problem(line, object, "it appears twice, first in line %d", first)
		return
	}
	r.named[object] = line
	switch kind {
	case kindSLO:
		if d, ok := document[sloSpec](r, node, object); ok {
			r.slos = append(r.slos, located[sloSpec]{d, line})
		}
	case kindSLI:
		if d, ok := document[sliSpec](r, node, object); ok {
			r.slis[name] = d.Spec
		}
	case kindAlertPolicy:
		if d, ok := document[policySpec](r, node, object); ok {
			r.policies[name] = d.Spec
		}
	case kindAlertCondition:
		if d, ok := document[conditionSpec](r, node, object); ok {
			r.conditions[name] = d.Spec
		}
	case kindAlertTarget:
		if _, ok := document[targetSpec](r, node, object); ok {
			r.targets[name] = true
		}
	case kindDataSource:
		if d, ok := document[dataSourceSpec](r, node, object); ok {
			r.sources[name] = d.Spec
		}
	case kindService:
		if _, ok := document[serviceSpec](r, node, object); ok {
			r.services[name] = true
		}
	default:
		r.problem(line, object, "kind %q is not one of SLO, SLI, AlertPolicy, AlertCondition, AlertNotificationTarget, DataSource and Service", kind)
	}
}

// document of a kind; false when it could not be read.
func document[S any](r *reader, node ast.Node, name string) (object[S], bool) {
	var d object[S]
	problems := decode(node, &d, name)
	r.problems = append(r.problems, problems...)
	return d, len(problems) == 0
}
