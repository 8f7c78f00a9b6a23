package openslo

import (
	"fmt"

	"github.com/prometheus/prometheus/promql/parser"
)

// Query parses PromQL and renders it anew: what is kept is what will be evaluated, in one form.
func Query(text string) (string, error) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return "", fmt.Errorf("query %q is no PromQL: %w", text, err)
	}
	if t := expr.Type(); t != parser.ValueTypeVector && t != parser.ValueTypeScalar {
		return "", fmt.Errorf("query %q gives a %s; an indicator needs numbers of one time (an instant vector)", text, parser.DocumentedType(t))
	}
	return expr.String(), nil
}
