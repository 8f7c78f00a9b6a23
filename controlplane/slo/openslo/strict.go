package openslo

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Problem of a document.
type Problem struct {
	Line   int    // of the YAML, from 1; 0: of a document as a whole
	Object string // kind and name, as far as known
	Text   string
}

func (p Problem) String() string {
	text := p.Text
	if p.Object != "" {
		text = p.Object + ": " + text
	}
	if p.Line > 0 {
		text = fmt.Sprintf("line %d: %s", p.Line, text)
	}
	return text
}

// Problems are all that is wrong with what was given.
type Problems []Problem

func (p Problems) Error() string {
	texts := make([]string, len(p))
	for k, x := range p {
		texts[k] = x.String()
	}
	return strings.Join(texts, "\n")
}

// Limits of what is parsed. The library's time grows with the square of how deep a text nests.
const (
	maxDepth   = 50
	maxBytes   = 256 << 10
	maxColumns = 200 // that a line is indented by
)

// tooMuch says why a text is not given to the parser; empty: it is.
func tooMuch(raw []byte) string {
	if len(raw) > maxBytes {
		return fmt.Sprintf("%d KiB of YAML; at most %d are read at once", len(raw)>>10, maxBytes>>10)
	}
	open := 0 // brackets, wherever they stand: texts close theirs again
	for number, line := range bytes.Split(raw, []byte{'\n'}) {
		line = bytes.TrimRight(line, " \t\r")
		if len(line)-len(bytes.TrimLeft(line, " -?:\t")) > maxColumns {
			return fmt.Sprintf("line %d is indented by more than %d columns", number+1, maxColumns)
		}
		for _, c := range line {
			switch c {
			case '[', '{':
				open++
			case ']', '}':
				open = max(0, open-1)
			}
		}
		if open > maxDepth {
			return fmt.Sprintf("line %d nests more than %d deep", number+1, maxDepth)
		}
	}
	return ""
}

// split parses YAML into its documents; a list is as many as it has items.
func split(raw []byte) (nodes []ast.Node, problems Problems) {
	defer func() {
		if r := recover(); r != nil { // the library panics on some hostile inputs
			nodes, problems = nil, Problems{{Text: fmt.Sprintf("this is no YAML: %v", r)}}
		}
	}()
	if why := tooMuch(raw); why != "" {
		return nil, Problems{{Text: why}}
	}
	file, err := parser.ParseBytes(raw, 0)
	if err != nil {
		return nil, Problems{{Text: "this is no YAML: " + yaml.FormatError(err, false, false)}}
	}
	for _, d := range file.Docs {
		switch body := d.Body.(type) {
		case nil, *ast.NullNode, *ast.CommentGroupNode:
		case *ast.SequenceNode:
			nodes = append(nodes, body.Values...)
		default:
			nodes = append(nodes, body)
		}
	}
	return nodes, nil
}

// decode a node into v, and tell of every field that v does not have.
func decode(node ast.Node, v any, object string) (problems Problems) {
	defer func() {
		if r := recover(); r != nil {
			problems = Problems{{Object: object, Text: fmt.Sprintf("it cannot be read: %v", r)}}
		}
	}()
	problems = unknown(node, reflect.TypeOf(v).Elem(), object, "", 0)
	if len(problems) > 0 {
		return problems
	}
	if err := yaml.NodeToValue(node, v); err != nil {
		return Problems{{Line: lineOf(node), Object: object, Text: "a value is not of its kind: " + yaml.FormatError(err, false, false)}}
	}
	return nil
}

func lineOf(node ast.Node) int {
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return m.Values[0].Key.GetToken().Position.Line
	}
	if t := node.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// unknown fields of a node that is to become a value of a type.
func unknown(node ast.Node, typ reflect.Type, object, path string, depth int) Problems {
	at := func(text string) Problems { return Problems{{Line: lineOf(node), Object: object, Text: text}} }
	if depth > maxDepth {
		return at(fmt.Sprintf("%s is nested more than %d deep", path, maxDepth))
	}
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch n := node.(type) {
	case nil, *ast.NullNode:
		return nil
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return at(path + ": anchors, aliases and tags are not read; write the value out")
	case *ast.SequenceNode:
		if typ.Kind() != reflect.Slice && typ.Kind() != reflect.Interface {
			return at(path + " is no list")
		}
		return each(n.Values, typ, object, path, depth)
	case *ast.MappingNode:
		return fields(n.Values, typ, object, path, depth)
	case *ast.MappingValueNode:
		return fields([]*ast.MappingValueNode{n}, typ, object, path, depth)
	}
	if typ.Kind() == reflect.Struct || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		return at(fmt.Sprintf("%s is not what belongs there: %s", path, node.String()))
	}
	return nil
}

func each(values []ast.Node, typ reflect.Type, object, path string, depth int) (problems Problems) {
	item := typ
	if typ.Kind() == reflect.Slice {
		item = typ.Elem()
	}
	for k, v := range values {
		problems = append(problems, unknown(v, item, object, fmt.Sprintf("%s[%d]", path, k), depth+1)...)
	}
	return problems
}

func fields(values []*ast.MappingValueNode, typ reflect.Type, object, path string, depth int) (problems Problems) {
	known, open := map[string]reflect.Type{}, typ.Kind() == reflect.Interface || typ.Kind() == reflect.Map
	if typ.Kind() == reflect.Struct {
		for k := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(k).Tag.Get("yaml"), ",")
			known[name] = typ.Field(k).Type
		}
	} else if !open {
		return Problems{{Line: values[0].Key.GetToken().Position.Line, Object: object, Text: path + " has no fields"}}
	}
	for _, v := range values {
		key := v.Key.GetToken().Value
		of := typ
		if typ.Kind() == reflect.Map {
			of = typ.Elem()
		}
		if !open {
			field, ok := known[key]
			if !ok {
				problems = append(problems, Problem{
					Line: v.Key.GetToken().Position.Line, Object: object,
					Text: fmt.Sprintf("%s is not a field here; there are %s", strings.TrimPrefix(path+"."+key, "."), names(known)),
				})
				continue
			}
			of = field
		}
		problems = append(problems, unknown(v.Value, of, object, strings.TrimPrefix(path+"."+key, "."), depth+1)...)
	}
	return problems
}

func names(fields map[string]reflect.Type) string {
	var found []string
	for name := range fields {
		found = append(found, name)
	}
	slices.Sort(found)
	return strings.Join(found, ", ")
}
