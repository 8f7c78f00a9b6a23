package silicon

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// Reasons for which a layout is in doubt.
const (
	unproven   = "tp may be the product of the expert ranks, and no twin proves it"
	oneFactor  = "tp × dp = expert ranks, but the id names one factor only"
	impossible = "more expert ranks than GPUs"
)

// One model under two labels: the V3 lines are R1 runs.
const deepseekV3, deepseekR1 = "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1"

func parse(f fields, report *Report) (Row, error) {
	r := Row{
		ID: f.text("id"), Model: f.text("model_path"), GPU: strings.ReplaceAll(f.text("system"), "_", "-"),
		Engine: f.text("backend"), Version: version(f), Aggregated: f.text("mode") == "agg",
		InProgress: f.source("wip") == "True",
	}
	if r.Model == deepseekV3 {
		r.Model = deepseekR1
		report.Relabelled++
	}
	if f.text("backend_version") == "" {
		report.NoVersion++
	}
	if r.InProgress {
		report.InProgress++
	}
	var errs [6]error
	r.ISL, errs[0] = f.count("isl")
	r.OSL, errs[1] = f.count("osl")
	r.TTFTSeconds, errs[2] = f.seconds("silicon_ttft_ms")
	r.TPOTSeconds, errs[3] = f.seconds("silicon_tpot_ms")
	r.Precision, errs[4] = precision(f.text("precision"))
	errs[5] = r.layout(f, report)
	return r, errors.Join(errs[:]...)
}

// version is the engine's, or where and when it was measured.
func version(f fields) string {
	if v := f.text("backend_version"); v != "" {
		return v
	}
	from, _, _ := strings.Cut(f.text("silicon_data_source"), ";")
	day, _, _ := strings.Cut(f.source("measured"), "T")
	return "unknown, " + from + ", " + day
}

// precision of the weights. A blank means the checkpoint's own, which is BF16; fp4 is NVIDIA's.
func precision(s string) (perfmodel.Precision, error) {
	switch s {
	case "":
		return perfmodel.BF16, nil
	case "fp4":
		return perfmodel.NVFP4, nil
	}
	return perfmodel.ParsePrecision(s)
}

// layout reads the parallel degrees. Some imports name the product of the two expert degrees where one of
// them is meant: 64 for 8 × 8, 16 for 4 × 4. Disaggregated lines have no layout of their own.
func (r *Row) layout(f fields, report *Report) error {
	var errs [6]error
	var moeTP, moeEP int
	r.Layout.TP, errs[0] = f.count("tp_size")
	r.Layout.PP, errs[1] = f.count("pp_size")
	r.Layout.DP, errs[2] = f.count("attention_dp_size")
	moeTP, errs[3] = f.count("moe_tp_size")
	moeEP, errs[4] = f.count("moe_ep_size")
	r.Concurrency, errs[5] = r.clients(f)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	l := &r.Layout
	product := moeTP * moeEP
	switch {
	case !r.Aggregated:
	case moeTP == moeEP && product == 4 && (l.TP == product || l.DP == product):
		r.Doubt = unproven
		report.Doubtful++
	case moeTP == moeEP && moeEP > 1 && (l.TP == product || l.DP == product):
		if l.TP == product {
			l.TP = moeEP
		} else {
			l.DP = moeEP
		}
		moeTP = 1
		report.Multiplied++
	case l.TP == l.DP && l.TP > 1 && l.TP*l.DP == moeEP:
		r.Doubt = oneFactor
		report.Doubtful++
	case moeTP > l.TP && l.DP == 1:
		r.Doubt = impossible
		report.Impossible++
	}
	l.EP, r.ExpertTP = moeEP, moeTP
	return nil
}

// clients is the concurrency of the whole replica: named in the source, else the batch of one rank times
// the ranks, as the table has it.
func (r *Row) clients(f fields) (int, error) {
	if s := f.source("silicon_concurrency"); s != "" {
		n, err := strconv.Atoi(s)
		if err == nil && n < 1 {
			err = fmt.Errorf("%d clients", n)
		}
		return n, err
	}
	batch, err := f.count("batch_size")
	return batch * r.Layout.DP, err
}

// copies is how far the figures of one measurement differ between imports.
const copies = .001

// distinct keeps one row of each measurement: the one whose version is known and whose layout needs no
// trust, the first among equals, at the place of the first.
func distinct(rows []Row) (kept []Row) {
	type kind struct {
		Cell
		aggregated bool
	}
	seen := map[kind][]int{} // places in kept
	first := map[int]Row{}   // the figures that stand for each place
next:
	for _, r := range rows {
		k := kind{r.Cell(), r.Aggregated}
		for _, place := range seen[k] {
			if f := first[place]; same(r.TTFTSeconds, f.TTFTSeconds) && same(r.TPOTSeconds, f.TPOTSeconds) {
				if r.rank() < kept[place].rank() {
					kept[place] = r
				}
				continue next
			}
		}
		first[len(kept)] = r
		seen[k] = append(seen[k], len(kept))
		kept = append(kept, r)
	}
	return kept
}

func same(a, b float64) bool { return math.Abs(a/b-1) <= copies }

// rank orders copies of a measurement, best first.
func (r Row) rank() (n int) {
	if r.Doubt != "" {
		n += 4
	}
	if strings.HasPrefix(r.Version, "unknown") {
		n += 2
	}
	if r.InProgress {
		n++
	}
	return n
}
