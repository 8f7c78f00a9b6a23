package silicon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// line is one line of a table, by column; what it does not name is blank.
type line map[string]string

func table(lines ...line) string {
	var b strings.Builder
	b.WriteString(strings.Join(wanted, ",") + "\n")
	for i, l := range lines {
		for k, v := range (line{
			"id": fmt.Sprint(i), "silicon_data_source": "source_file=a.csv; silicon_concurrency=16; measured=2026-01-14T22:26:21Z; wip=False",
			"backend": "vllm", "backend_version": "0.12.0", "model_path": "m", "system": "h200_sxm", "precision": "fp8", "mode": "agg",
			"isl": "1024", "osl": "512", "batch_size": "16", "tp_size": "8", "silicon_ttft_ms": "100", "silicon_tpot_ms": "10",
		}) {
			if _, ok := l[k]; !ok {
				l[k] = v
			}
		}
		for j, name := range wanted {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(l[name])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func read(t *testing.T, lines ...line) ([]Row, Report) {
	t.Helper()
	rows, report, err := Read(strings.NewReader(table(lines...)))
	if err != nil {
		t.Fatal(err)
	}
	return rows, report
}

func TestRow(t *testing.T) {
	rows, _ := read(t, line{"moe_ep_size": "8"})
	want := Row{
		ID: "0", Model: "m", GPU: "h200-sxm", Engine: "vllm", Version: "0.12.0", Precision: perfmodel.FP8, Aggregated: true,
		ISL: 1024, OSL: 512, Concurrency: 16, Layout: perfmodel.Layout{TP: 8, PP: 1, DP: 1, EP: 8}, ExpertTP: 1, TTFTSeconds: .1, TPOTSeconds: .01,
	}
	if rows[0] != want {
		t.Errorf("read %+v,\nwant %+v", rows[0], want)
	}
	if got, want := want.E2ESeconds(), .1+.01*511; got != want {
		t.Errorf("end to end %g s, want %g", got, want)
	}
	if got, want := want.OutputTokensPerGPU(), 16*512/(.1+.01*511)/8; got != want {
		t.Errorf("%g tokens per second and GPU, want %g", got, want)
	}
}

// TestCopies: equal model, GPU, engine, lengths and mode, and both latencies within .1 %, is one
// measurement, of which the line with a version stays.
func TestCopies(t *testing.T) {
	rows, report := read(t,
		line{"id": "bare", "backend_version": "", "silicon_ttft_ms": "100", "silicon_tpot_ms": "10"},
		line{"id": "copy", "silicon_ttft_ms": "100.09", "silicon_tpot_ms": "9.992"},
		line{"id": "other ttft", "silicon_ttft_ms": "100.2", "silicon_tpot_ms": "10"},
		line{"id": "other gpu", "system": "h100_sxm"},
		line{"id": "other engine", "backend": "sglang"},
		line{"id": "other length", "osl": "513"},
		line{"id": "other mode", "mode": "disagg"},
	)
	if report.Duplicates != 1 || len(rows) != 6 || rows[0].ID != "copy" {
		t.Errorf("%d copies, first of %d is %q: want one copy and the line with a version", report.Duplicates, len(rows), rows[0].ID)
	}
}

// TestDeepSeekIsOneModel: V3 lines are R1 runs, also for telling copies.
func TestDeepSeekIsOneModel(t *testing.T) {
	rows, report := read(t, line{"model_path": deepseekV3}, line{"model_path": deepseekR1})
	if len(rows) != 1 || rows[0].Model != deepseekR1 || report.Relabelled != 1 || report.Duplicates != 1 {
		t.Errorf("%+v, %+v", rows, report)
	}
}

func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		name                string
		tp, dp, moeTP, moEP string
		want                perfmodel.Layout
		expertTP            int
		doubt               string
	}{
		{"multiplied tp", "64", "", "8", "8", perfmodel.Layout{TP: 8, PP: 1, DP: 1, EP: 8}, 1, ""},
		{"multiplied tp of four", "16", "1", "4", "4", perfmodel.Layout{TP: 4, PP: 1, DP: 1, EP: 4}, 1, ""},
		{"multiplied dp", "1", "64", "8", "8", perfmodel.Layout{TP: 1, PP: 1, DP: 8, EP: 8}, 1, ""},
		{"4 = 2 × 2", "4", "", "2", "2", perfmodel.Layout{TP: 4, PP: 1, DP: 1, EP: 2}, 2, unproven},
		{"tp × dp = ep", "4", "4", "1", "16", perfmodel.Layout{TP: 4, PP: 1, DP: 4, EP: 16}, 1, oneFactor},
		{"plain expert tensor parallelism", "8", "", "8", "1", perfmodel.Layout{TP: 8, PP: 1, DP: 1, EP: 1}, 8, ""},
		{"plain data-parallel attention", "1", "8", "1", "8", perfmodel.Layout{TP: 1, PP: 1, DP: 8, EP: 8}, 1, ""},
		{"blank is one", "", "", "", "", perfmodel.Layout{TP: 1, PP: 1, DP: 1, EP: 1}, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := line{"tp_size": c.tp, "attention_dp_size": c.dp, "moe_tp_size": c.moeTP, "moe_ep_size": c.moEP}
			rows, _ := read(t, doc)
			if r := rows[0]; r.Layout != c.want || r.ExpertTP != c.expertTP || r.Doubt != c.doubt {
				t.Errorf("%+v, expert tp %d, doubt %q", r.Layout, r.ExpertTP, r.Doubt)
			}
		})
	}
	if rows, report := read(t, line{"tp_size": "1", "moe_tp_size": "4"}); len(rows) != 0 || report.Impossible != 1 {
		t.Errorf("four expert ranks on one GPU: %+v", rows)
	}
}

// TestConcurrency: that of the source counts all ranks; the batch column is one rank's.
func TestConcurrency(t *testing.T) {
	named, _ := read(t, line{"attention_dp_size": "8", "moe_ep_size": "8", "batch_size": "2", "tp_size": "1"})
	if named[0].Concurrency != 16 {
		t.Errorf("%d clients, the source names 16", named[0].Concurrency)
	}
	silent, _ := read(t, line{"silicon_data_source": "x", "attention_dp_size": "8", "moe_ep_size": "8", "batch_size": "2", "tp_size": "1"})
	if silent[0].Concurrency != 16 {
		t.Errorf("%d clients, want 2 of each of 8 ranks", silent[0].Concurrency)
	}
}

// TestUnknownVersions are told apart by source and date.
func TestUnknownVersions(t *testing.T) {
	from := func(file, day string) line {
		return line{"backend_version": "", "silicon_ttft_ms": file + day, "silicon_data_source": "source_file=" + file + "; measured=" + day + "T1:2:3Z; silicon_concurrency=1"}
	}
	rows, report := read(t, from("1", "1"), from("1", "2"), from("2", "1"), from("2", "1"))
	if report.NoVersion != 4 || len(rows) != 3 {
		t.Fatalf("%d rows, %+v", len(rows), report)
	}
	for i, a := range rows {
		for _, b := range rows[:i] {
			if a.Version == b.Version {
				t.Errorf("two sources share the version %q", a.Version)
			}
		}
	}
}

func TestMarks(t *testing.T) {
	rows, report := read(t,
		line{"silicon_data_source": "source_file=a; silicon_concurrency=1; wip=True", "precision": ""},
		line{"precision": "fp4", "silicon_ttft_ms": "61000"},
	)
	if !rows[0].InProgress || rows[1].InProgress || report.InProgress != 1 || rows[0].Precision != perfmodel.BF16 || rows[1].Precision != perfmodel.NVFP4 {
		t.Errorf("%+v", rows)
	}
	if rows[1].TTFTSeconds != 61 {
		t.Errorf("a saturated run is kept as it is, got %+v", rows[1])
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ doc, text string }{
		"empty":         {"", "header"},
		"other columns": {"a,b\n1,2\n", "no column id"},
		"no latency":    {table(line{"silicon_ttft_ms": "-1"}), "line 2"},
		"precision":     {table(line{}, line{"precision": "fp3"}), "line 3"},
		"degree":        {table(line{"tp_size": "0"}), "tp_size"},
		"concurrency":   {table(line{"silicon_data_source": "silicon_concurrency=many"}), "line 2"},
		"short line":    {table() + "a,b\n", "wrong number of fields"},
	} {
		if _, _, err := Read(strings.NewReader(c.doc)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(table(line{}, line{"tp_size": "16", "moe_tp_size": "4", "moe_ep_size": "4"}))
	f.Fuzz(func(t *testing.T, doc string) {
		rows, report, err := Read(strings.NewReader(doc))
		if err != nil {
			return
		}
		if report.Kept != len(rows) || report.Read < len(rows)+report.Duplicates {
			t.Errorf("%d rows, %+v", len(rows), report)
		}
		for _, r := range rows {
			if r.Layout.GPUs() < 1 || !(r.TTFTSeconds > 0) || !(r.TPOTSeconds > 0) {
				t.Errorf("%+v", r)
			}
		}
	})
}

// TestPublishedCounts holds the reader to what is documented of the public table.
func TestPublishedCounts(t *testing.T) {
	dir := os.Getenv("DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data")
	}
	f, err := os.Open(filepath.Join(dir, "aic_silicon_sample.csv"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the table is absent: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, got, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	want := Report{
		Read: 4170, Duplicates: 1357, Relabelled: 490, Multiplied: 274, Doubtful: 14 + 97, Impossible: 19, NoVersion: 600, InProgress: 234,
		Kept: got.Kept, KeptTrusted: got.KeptTrusted,
	}
	if got != want || got.Kept < 2813-19 || got.Kept != len(rows) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	t.Logf("%+v", got)
}
