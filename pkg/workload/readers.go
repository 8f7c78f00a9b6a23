package workload

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrFormat means a trace file is not what its reader expects; the text names the line.
var ErrFormat = errors.New("not a trace in this format")

// maxTokens bounds lengths read from files; no model takes a longer context.
const maxTokens = 1 << 26

// Row is one request of a file with its time on the file's own clock.
type Row struct {
	At time.Time
	Request
}

// Rows are read one by one, in the order of the file: nothing but the current line is kept. An error ends
// them; it wraps ErrFormat and names the line.
type Rows = iter.Seq2[Row, error]

// collect gathers rows into a trace in order of time, with offsets from the first request. Requests
// without tokens are left out.
func collect(rows Rows) ([]Request, error) {
	var all []Row
	for row, err := range rows {
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return inOrder(all), nil
}

func inOrder(rows []Row) (trace []Request) {
	slices.SortStableFunc(rows, func(a, b Row) int { return a.At.Compare(b.At) })
	for _, row := range rows {
		row.Offset = row.At.Sub(rows[0].At)
		if row.PromptTokens > 0 && row.OutputTokens > 0 {
			trace = append(trace, row.Request)
		}
	}
	return trace
}

// ReadAzureCSV reads a trace with the columns TIMESTAMP, ContextTokens and GeneratedTokens, as published
// for Azure's services. Requests without output tokens are left out: nothing was generated.
func ReadAzureCSV(r io.Reader) ([]Request, error) { return collect(AzureCSV(r)) }

// AzureCSV streams what ReadAzureCSV reads.
func AzureCSV(r io.Reader) Rows {
	return func(yield func(Row, error) bool) {
		err := eachRecord(r, []string{"TIMESTAMP", "ContextTokens", "GeneratedTokens"}, func(field func(string) string) (bool, error) {
			when, err := time.Parse("2006-01-02 15:04:05", field("TIMESTAMP"))
			if err != nil {
				return false, err
			}
			request, err := lengths(field("ContextTokens"), field("GeneratedTokens"))
			if err != nil {
				return false, err
			}
			return yield(Row{when, request}, nil), nil
		})
		if err != nil {
			yield(Row{}, err)
		}
	}
}

// eachRecord calls use with a look-up by column name for every line of a CSV file that has the columns
// wanted, until use says no.
func eachRecord(r io.Reader, wanted []string, use func(field func(string) string) (more bool, err error)) error {
	lines := csv.NewReader(bounded(r))
	lines.ReuseRecord = true
	header, err := lines.Read()
	if err != nil {
		return fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	at := map[string]int{}
	for i, name := range header {
		at[strings.Clone(name)] = i
	}
	for _, name := range wanted {
		if _, ok := at[name]; !ok {
			return fmt.Errorf("%w: want the columns %s", ErrFormat, strings.Join(wanted, ", "))
		}
	}
	for {
		record, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		field := func(name string) string {
			if i, ok := at[name]; ok {
				return record[i]
			}
			return ""
		}
		more, err := use(field)
		if err != nil {
			line, _ := lines.FieldPos(0)
			return fmt.Errorf("%w: line %d: %w", ErrFormat, line, err)
		}
		if !more {
			return nil
		}
	}
}

// maxLine bounds a line, so that a file without line breaks cannot fill the memory.
const maxLine = 4 << 20

// bounded ends a reader with an error at a line that is too long.
func bounded(r io.Reader) io.Reader { return &lineLimit{r: r} }

type lineLimit struct {
	r    io.Reader
	line int // bytes since the last line break
}

func (l *lineLimit) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	for _, b := range p[:n] {
		if l.line++; b == '\n' {
			l.line = 0
		}
		if l.line > maxLine {
			return 0, fmt.Errorf("a line is longer than %d bytes", maxLine)
		}
	}
	return n, err
}

func lengths(prompt, output string) (r Request, err error) {
	if r.PromptTokens, err = tokenCount(prompt); err != nil {
		return r, err
	}
	r.OutputTokens, err = tokenCount(output)
	return r, err
}

func tokenCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err == nil && (n < 0 || n > maxTokens) {
		err = fmt.Errorf("%d tokens", n)
	}
	return n, err
}

// mooncakeBlock is the number of tokens that one hash of a Mooncake trace stands for.
const mooncakeBlock = 512

// ReadMooncakeJSONL reads a trace with one object per line: timestamp in milliseconds, input_length,
// output_length and hash_ids, one per 512 prompt tokens.
func ReadMooncakeJSONL(r io.Reader) ([]Request, error) { return collect(MooncakeJSONL(r)) }

// MooncakeJSONL streams what ReadMooncakeJSONL reads.
func MooncakeJSONL(r io.Reader) Rows {
	return jsonRows(r, func(line []byte) (Row, error) {
		var row struct {
			Timestamp float64  `json:"timestamp"`
			Input     int      `json:"input_length"`
			Output    int      `json:"output_length"`
			Hashes    []uint64 `json:"hash_ids"`
		}
		if err := json.Unmarshal(line, &row); err != nil {
			return Row{}, err
		}
		request := Request{PromptTokens: row.Input, OutputTokens: row.Output, Prefix: row.Hashes, PrefixBlock: mooncakeBlock}
		return Row{seconds(row.Timestamp / 1e3), request}, request.plausible(row.Timestamp / 1e3)
	})
}

// ReadRequestLogJSONL reads the requests of a per-request log, as ServedJSONL has it.
func ReadRequestLogJSONL(r io.Reader) ([]Request, error) {
	return collect(func(yield func(Row, error) bool) {
		for s, err := range ServedJSONL(r) {
			if !yield(Row{s.Arrived, s.Request}, err) {
				return
			}
		}
	})
}

// jsonRows streams rows of which each is a line.
func jsonRows(r io.Reader, parse func([]byte) (Row, error)) Rows {
	return func(yield func(Row, error) bool) {
		err := eachLine(r, func(line []byte) (bool, error) {
			row, err := parse(line)
			if err != nil {
				return false, err
			}
			return yield(row, nil), nil
		})
		if err != nil {
			yield(Row{}, err)
		}
	}
}

// latest is a century after any clock's beginning, in seconds.
const latest = 100 * 365 * 24 * 3600

// plausible refuses values that no engine can have seen.
func (r Request) plausible(atSeconds float64) error {
	if !(atSeconds >= 0 && atSeconds < latest) {
		return fmt.Errorf("time %g s", atSeconds)
	}
	if min(r.PromptTokens, r.OutputTokens) < 0 || max(r.PromptTokens, r.OutputTokens) > maxTokens {
		return fmt.Errorf("%d prompt and %d output tokens", r.PromptTokens, r.OutputTokens)
	}
	return nil
}

func seconds(s float64) time.Time {
	return time.Unix(0, 0).Add(time.Duration(s * float64(time.Second)))
}

// eachLine calls use with every line that is not empty, until it says no.
func eachLine(r io.Reader, use func([]byte) (more bool, err error)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		if len(lines.Bytes()) == 0 {
			continue
		}
		more, err := use(lines.Bytes())
		if err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrFormat, n, err)
		}
		if !more {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: line %d: %w", ErrFormat, n+1, err)
	}
	return nil
}
