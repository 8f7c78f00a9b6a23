// Package silicon reads a published table of end-to-end measurements of serving engines, one line per
// model, GPU, engine, layout and load, and repairs what is known to be wrong with it. The table itself is
// not part of the repository. What to make of the figures is left to the bars and to pkg/perfmodel.
package silicon

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// ErrFormat means the file is not such a table; the text names the line.
var ErrFormat = errors.New("not a table of measurements")

// Row is one measurement: a closed loop of clients, means over its requests.
type Row struct {
	ID     string
	Model  string // served path; DeepSeek-V3 and R1 are one, under R1's
	GPU    string // as perfmodel's table names it
	Engine string // vllm, sglang, trtllm
	// Version of the engine, or the source and date of the measurement where it is not known, so that
	// what cannot be told apart is never taken for one.
	Version     string
	Precision   perfmodel.Precision // of the weights; bf16 where the table is silent
	Aggregated  bool                // prompts and decoding on the same GPUs
	ISL, OSL    int                 // mean tokens of prompt and answer
	Concurrency int                 // clients, over all data-parallel ranks
	Layout      perfmodel.Layout
	ExpertTP    int // ranks over which one expert is split
	TTFTSeconds float64
	TPOTSeconds float64
	InProgress  bool   // its publisher says the measurement is not finished work
	Doubt       string // why its layout cannot be trusted; empty when it can
}

// Cell is what rows of one kind share: configurations within it are comparable.
type Cell struct {
	Model, GPU, Engine string
	ISL, OSL           int
}

// Cell of the row.
func (r Row) Cell() Cell { return Cell{r.Model, r.GPU, r.Engine, r.ISL, r.OSL} }

// E2ESeconds is the mean time to the last token.
func (r Row) E2ESeconds() float64 { return r.TTFTSeconds + r.TPOTSeconds*float64(r.OSL-1) }

// OutputTokensPerGPU and second: c·OSL/(TTFT + TPOT(OSL−1)), per GPU.
func (r Row) OutputTokensPerGPU() float64 {
	return float64(r.Concurrency*r.OSL) / r.E2ESeconds() / float64(r.Layout.GPUs())
}

// Report counts what the reader repaired and dropped.
type Report struct {
	Read        int // lines of the table
	Duplicates  int // the same measurement under another id
	Relabelled  int // DeepSeek-V3 lines, which are R1 runs
	Multiplied  int // layouts that named the product of the expert ranks
	Doubtful    int // layouts that cannot be proven
	Impossible  int // dropped: more expert ranks than GPUs
	NoVersion   int
	InProgress  int
	Kept        int
	KeptTrusted int // of those, the ones without doubt
}

// Read returns the distinct measurements of a table, in its order.
func Read(r io.Reader) ([]Row, Report, error) {
	lines := csv.NewReader(r)
	lines.ReuseRecord = true
	header, err := lines.Read()
	if err != nil {
		return nil, Report{}, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	columns, err := indexColumns(header)
	if err != nil {
		return nil, Report{}, err
	}
	var rows []Row
	var report Report
	for {
		record, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, Report{}, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		row, err := parse(columns.of(record), &report)
		if err != nil {
			line, _ := lines.FieldPos(0)
			return nil, Report{}, fmt.Errorf("%w: line %d: %w", ErrFormat, line, err)
		}
		rows = append(rows, row)
	}
	return finish(rows, report)
}

// finish drops what cannot be and what is there twice. Copies are told before impossible layouts are
// dropped, as one copy of a measurement may carry the right layout.
func finish(rows []Row, report Report) ([]Row, Report, error) {
	report.Read = len(rows)
	rows = distinct(rows)
	report.Duplicates = report.Read - len(rows)
	rows = slices.DeleteFunc(rows, func(r Row) bool { return r.Doubt == impossible })
	report.Kept = len(rows)
	for _, r := range rows {
		if r.Doubt == "" {
			report.KeptTrusted++
		}
	}
	return rows, report, nil
}

// columns by name.
type columns map[string]int

// fields of one line.
type fields struct {
	at     columns
	record []string
}

var wanted = []string{
	"id", "silicon_data_source", "backend", "backend_version", "model_path", "system", "precision", "mode", "isl", "osl", "batch_size",
	"tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "silicon_ttft_ms", "silicon_tpot_ms",
}

func indexColumns(header []string) (columns, error) {
	at := columns{}
	for _, name := range wanted {
		i := slices.Index(header, name)
		if i < 0 {
			return nil, fmt.Errorf("%w: no column %s", ErrFormat, name)
		}
		at[name] = i
	}
	return at, nil
}

func (c columns) of(record []string) fields { return fields{c, record} }

func (f fields) text(name string) string { return f.record[f.at[name]] }

// count reads a whole number; blank means 1, as the table leaves out degrees of 1.
func (f fields) count(name string) (int, error) {
	if f.text(name) == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(f.text(name))
	if err == nil && n < 1 {
		err = fmt.Errorf("%d", n)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

// seconds reads milliseconds above zero.
func (f fields) seconds(name string) (float64, error) {
	ms, err := strconv.ParseFloat(f.text(name), 64)
	if err == nil && !(ms > 0 && ms < 1e9) {
		err = fmt.Errorf("%g ms", ms)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return ms / 1e3, nil
}

// source reads a key of the semicolon-separated source column.
func (f fields) source(key string) string {
	for part := range strings.SplitSeq(f.text("silicon_data_source"), ";") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(part), key+"="); ok {
			return value
		}
	}
	return ""
}
