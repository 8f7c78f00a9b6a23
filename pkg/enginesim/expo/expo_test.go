package expo

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fill makes the same page in any style.
func fill(style Style) string {
	r := New(style, 1.5e9)
	r.Counter("a_total", "Things.").With("model", "x\"y", "engine", "0").Add(3)
	r.Gauge("g", "").With().Set(.25)
	h := r.Histogram("h", "Spread.", []float64{.5, 1, 2000000}).With("z", "1", "b", "2")
	h.Observe(.5)
	h.ObserveN(7, 2)
	s := r.Summary("s", "Sum.", .5, 1).With()
	s.ObserveN(0, 3)
	s.Observe(4)
	r.Counter("never_total", "Nothing.")
	var b strings.Builder
	r.WriteTo(&b)
	return b.String()
}

func TestPages(t *testing.T) {
	for style, want := range map[Style]string{
		Python: `# HELP a_total Things.
# TYPE a_total counter
a_total{engine="0",model="x\"y"} 3.0
# HELP a_created Things.
# TYPE a_created gauge
a_created{engine="0",model="x\"y"} 1.5e+09
# TYPE g gauge
g 0.25
# HELP h Spread.
# TYPE h histogram
h_bucket{b="2",le="0.5",z="1"} 1.0
h_bucket{b="2",le="1.0",z="1"} 1.0
h_bucket{b="2",le="2e+06",z="1"} 3.0
h_bucket{b="2",le="+Inf",z="1"} 3.0
h_count{b="2",z="1"} 3.0
h_sum{b="2",z="1"} 14.5
# HELP h_created Spread.
# TYPE h_created gauge
h_created{b="2",z="1"} 1.5e+09
# HELP s Sum.
# TYPE s summary
s{quantile="0.5"} 0.0
s{quantile="1.0"} 4.0
s_count 4.0
s_sum 4.0
# HELP s_created Sum.
# TYPE s_created gauge
s_created 1.5e+09
# HELP never_total Nothing.
# TYPE never_total counter
`,
		Multiprocess: `# HELP a_total Things.
# TYPE a_total counter
a_total{engine="0",model="x\"y"} 3.0
# TYPE g gauge
g 0.25
# HELP h Spread.
# TYPE h histogram
h_sum{b="2",z="1"} 14.5
h_bucket{b="2",le="0.5",z="1"} 1.0
h_bucket{b="2",le="1.0",z="1"} 1.0
h_bucket{b="2",le="2e+06",z="1"} 3.0
h_bucket{b="2",le="+Inf",z="1"} 3.0
h_count{b="2",z="1"} 3.0
# HELP s Sum.
# TYPE s summary
s{quantile="0.5"} 0.0
s{quantile="1.0"} 4.0
s_sum 4.0
s_count 4.0
`,
		Rust: `# HELP a_total Things.
# TYPE a_total counter
a_total{model="x\"y",engine="0"} 3

# TYPE g gauge
g 0.25

# HELP h Spread.
# TYPE h histogram
h_bucket{z="1",b="2",le="0.5"} 1
h_bucket{z="1",b="2",le="1"} 1
h_bucket{z="1",b="2",le="2000000"} 3
h_bucket{z="1",b="2",le="+Inf"} 3
h_sum{z="1",b="2"} 14.5
h_count{z="1",b="2"} 3

# HELP s Sum.
# TYPE s summary
s{quantile="0.5"} 0
s{quantile="1"} 4
s_sum 4
s_count 4

`,
	} {
		if diff := cmp.Diff(want, fill(style)); diff != "" {
			t.Errorf("style %d (-want +got):\n%s", style, diff)
		}
	}
}

func TestOpenMetrics(t *testing.T) {
	r := New(Multiprocess, 0)
	r.Counter("a:b_total", "Things: all.").With("model", "x:y").Add(3)
	r.Gauge("a:g", "").With().Set(1)
	var b strings.Builder
	if _, err := r.WriteOpenMetrics(&b); err != nil {
		t.Fatal(err)
	}
	want := "# HELP a:b Things: all.\n# TYPE a:b counter\na_b_total{model=\"x:y\"} 3.0\n# TYPE a:g gauge\na_g 1.0\n# EOF\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		v            float64
		python, rust string
	}{
		{0, "0.0", "0"},
		{.1, "0.1", "0.1"},
		{123456, "123456.0", "123456"},
		{1.1e6, "1.1e+06", "1100000"},
		{math.Inf(1), "+Inf", "+Inf"},
		{math.NaN(), "NaN", "NaN"},
	} {
		if p, r := Python.number(c.v), Rust.number(c.v); p != c.python || r != c.rust {
			t.Errorf("%v: %s and %s, want %s and %s", c.v, p, r, c.python, c.rust)
		}
	}
}
