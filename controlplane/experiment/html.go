package experiment

import (
	"bytes"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/load"
)

// webPage is one self-contained page: no script, no style and no picture from elsewhere.
func webPage(d *load.Document) ([]byte, error) {
	v := struct {
		*load.Document
		Plots  []plot
		Tables []runTable
	}{Document: d}
	for _, m := range []struct {
		title string
		value func(load.Columns, int) (float64, bool)
	}{{"Time to first token", load.Columns.TTFT}, {"Time per output token", load.Columns.TPOT}, {"End-to-end latency", load.Columns.E2E}} {
		if p := distribution(d, m.title, m.value); p.SVG != "" {
			v.Plots = append(v.Plots, p)
		}
	}
	for _, r := range d.Runs {
		if r.Report != nil {
			var b strings.Builder
			if err := r.Report.Summary.Table(&b); err != nil {
				return nil, fmt.Errorf("table of run %d: %w", r.Number, err)
			}
			v.Tables = append(v.Tables, runTable{Title: fmt.Sprintf("Run %d, %s: %s", r.Number, r.Arm, r.Load), Text: b.String()})
		}
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, v); err != nil {
		return nil, fmt.Errorf("write html: %w", err)
	}
	return b.Bytes(), nil
}

// plot is one picture; the SVG is made of numbers and escaped texts alone.
type plot struct {
	Title string
	SVG   template.HTML
}

type runTable struct{ Title, Text string }

// Size of a plot in pixels, and the edge around it.
const (
	plotWidth, plotHeight = 640, 260
	edge                  = 46
)

// distribution draws the share of requests that took at most so long, one line a run; the time axis is
// logarithmic.
func distribution(d *load.Document, title string, value func(load.Columns, int) (float64, bool)) plot {
	lines := map[int][]float64{}
	low, high := math.Inf(1), 0.0
	for _, r := range d.Runs {
		if r.Report == nil {
			continue
		}
		var v []float64
		for k := range r.Report.Requests.Len() {
			if x, ok := value(r.Report.Requests, k); ok && x > 0 {
				v = append(v, x)
			}
		}
		if len(v) > 0 {
			slices.Sort(v)
			lines[r.Number] = v
			low, high = min(low, v[0]), max(high, v[len(v)-1])
		}
	}
	if len(lines) == 0 {
		return plot{}
	}
	if high/low < 1.05 {
		low, high = low/1.2, high*1.2
	}
	x := func(s float64) float64 {
		return edge + (plotWidth-2*edge)*(math.Log(s)-math.Log(low))/(math.Log(high)-math.Log(low))
	}
	y := func(share float64) float64 { return plotHeight - edge - (plotHeight-2*edge)*share }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`, plotWidth, plotHeight, plotWidth, plotHeight, template.HTMLEscapeString(title))
	for _, share := range []float64{0, .5, .95, 1} {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" class="grid"/><text x="4" y="%.1f">%.0f %%</text>`, edge, plotWidth-edge, y(share), y(share), y(share)+4, 100*share)
	}
	for k := range 5 {
		s := low * math.Pow(high/low, float64(k)/4)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.3g s</text>`, x(s), plotHeight-edge+18, s)
	}
	for _, r := range d.Runs {
		if v := lines[r.Number]; len(v) > 0 {
			fmt.Fprintf(&b, `<polyline class="%s" points="%s"><title>%s</title></polyline>`, template.HTMLEscapeString(r.Arm), steps(v, x, y), template.HTMLEscapeString(fmt.Sprintf("run %d, %s, %s", r.Number, r.Arm, r.Load)))
		}
	}
	b.WriteString(`</svg>`)
	return plot{Title: title, SVG: template.HTML(b.String())} //nolint:gosec // numbers and escaped texts
}

// steps draws a sorted sample with at most two hundred points.
func steps(v []float64, x, y func(float64) float64) string {
	var b strings.Builder
	n := min(len(v), 200)
	for k := range n {
		at := k * (len(v) - 1) / max(n-1, 1)
		fmt.Fprintf(&b, "%.1f,%.1f ", x(v[at]), y(float64(at+1)/float64(len(v))))
	}
	return strings.TrimSpace(b.String())
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": func(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) },
	"short":   func(v float64) string { return fmt.Sprintf("%.4g", v) },
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Test {{.ID}}</title><style>
body{font:15px/1.45 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1c2530}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.25em .7em;border-bottom:1px solid #d6dce2;text-align:right}td:first-child,th:first-child{text-align:left}
pre{background:#f4f6f8;padding:.8em;overflow:auto}svg text{font-size:11px;fill:#54606c}.grid{stroke:#d6dce2}polyline{fill:none;stroke-width:1.6}
.baseline{stroke:#5b7fa6}.candidate{stroke:#c4602a}.verdict{font-size:1.15em;border-left:4px solid #5b7fa6;padding-left:.8em}
</style></head><body>
<h1>Test {{.ID}}</h1>
<p>{{.Kind}} of {{if .Twin}}the <b>simulated twin</b> of group {{.Group}}: nothing was measured on an engine{{else}}engine {{.Engine}} in group {{.Group}}{{end}}, {{.State}}. Asked for by {{.By}} at {{.Created.UTC.Format "2006-01-02 15:04:05"}} UTC.</p>
{{if .Consent}}<p>{{.Consent}} accepted load on an engine that served users.</p>{{end}}
{{if .Settings}}<p>Candidate: {{range $k, $v := .Settings}}<code>{{$k}}={{$v}}</code> {{end}}</p>{{end}}
<p class="verdict">{{if .Verdict}}<b>{{.Verdict}}</b>: {{end}}{{.Summary}}{{.EndReason}}</p>
{{with .Comparison}}<h2>Comparison</h2>
<p>{{.Baselines}} runs of the baseline, {{.Tries}} of the candidate, each in a fresh process. Primary: {{.Primary}}; asked for: {{percent .MinEffect}}; noise between restarts: {{percent .Noise}}. Ratios above 1 are better; bounds are one-sided at 99 %.</p>
<table><tr><th>metric</th><th>baseline</th><th>candidate</th><th>ratio</th><th>low</th><th>high</th><th>noise</th><th>Mann-Whitney p</th><th>objective</th></tr>
{{range .Metrics}}<tr><td>{{.Name}} ({{.Unit}})</td><td>{{short .Baseline}}</td><td>{{short .Candidate}}</td><td>{{short .Ratio}}</td><td>{{short .Low}}</td><td>{{short .High}}</td><td>{{percent .Noise}}</td><td>{{short .MannWhitney}}</td><td>{{.Attained}}</td></tr>{{end}}</table>{{end}}
{{with .Quality}}<h2>Answers</h2><p>{{if .Passed}}Passed{{else}}Not passed{{end}}: {{.Words}}.</p>{{end}}
{{range .Plots}}<h2>{{.Title}}</h2><p>Share of requests that took at most so long, from when they were due; <span style="color:#5b7fa6">baseline</span>, <span style="color:#c4602a">candidate</span>.</p>{{.SVG}}{{end}}
<h2>Runs</h2><table><tr><th>run</th><th>arm</th><th>load</th><th>epoch</th><th>note</th></tr>
{{range .Runs}}<tr><td>{{.Number}}</td><td>{{.Arm}}</td><td>{{.Load}}</td><td>{{.Epoch}}</td><td>{{.Stopped}}{{if .Missing}}its report lies on another node{{end}}</td></tr>{{end}}</table>
{{range .Tables}}<h3>{{.Title}}</h3><pre>{{.Text}}</pre>{{end}}
</body></html>
`))
