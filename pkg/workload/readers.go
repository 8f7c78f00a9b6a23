package workload

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// ErrFormat means a trace file is not what its reader expects; the text names the line.
var ErrFormat = errors.New("not a trace in this format")

// maxTokens bounds lengths read from files; no model takes a longer context.
const maxTokens = 1 << 26

// ReadAzureCSV reads a trace with the columns TIMESTAMP, ContextTokens and GeneratedTokens, as published
// for Azure's services. Requests without output tokens are left out: nothing was generated.
func ReadAzureCSV(r io.Reader) ([]Request, error) {
	lines := csv.NewReader(r)
	lines.ReuseRecord = true
	header, err := lines.Read()
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	at, prompt, output := slices.Index(header, "TIMESTAMP"), slices.Index(header, "ContextTokens"), slices.Index(header, "GeneratedTokens")
	if at < 0 || prompt < 0 || output < 0 {
		return nil, fmt.Errorf("%w: want the columns TIMESTAMP, ContextTokens, GeneratedTokens", ErrFormat)
	}
	var rows []timed
	for {
		record, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return inOrder(rows), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		line, _ := lines.FieldPos(0)
		when, err := time.Parse("2006-01-02 15:04:05", record[at])
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrFormat, line, err)
		}
		request, err := lengths(record[prompt], record[output])
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrFormat, line, err)
		}
		rows = append(rows, timed{when, request})
	}
}

// timed is a request with its wall-clock time.
type timed struct {
	at      time.Time
	request Request
}

// inOrder sorts by time, sets offsets from the first request and drops requests without tokens.
func inOrder(rows []timed) (trace []Request) {
	slices.SortStableFunc(rows, func(a, b timed) int { return a.at.Compare(b.at) })
	for _, row := range rows {
		row.request.Offset = row.at.Sub(rows[0].at)
		if row.request.PromptTokens > 0 && row.request.OutputTokens > 0 {
			trace = append(trace, row.request)
		}
	}
	return trace
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
func ReadMooncakeJSONL(r io.Reader) ([]Request, error) {
	var rows []timed
	err := eachLine(r, func(line []byte) error {
		var row struct {
			Timestamp float64  `json:"timestamp"`
			Input     int      `json:"input_length"`
			Output    int      `json:"output_length"`
			Hashes    []uint64 `json:"hash_ids"`
		}
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		request := Request{PromptTokens: row.Input, OutputTokens: row.Output, Prefix: row.Hashes, PrefixBlock: mooncakeBlock}
		rows = append(rows, timed{seconds(row.Timestamp / 1e3), request})
		return request.plausible(row.Timestamp / 1e3)
	})
	if err != nil {
		return nil, err
	}
	return inOrder(rows), nil
}

// ReadRequestLogJSONL reads a per-request log as LLMServingSim publishes it, one object per line with
// input_toks, output_toks and the arrival in seconds: queued_ts if present, else arrival_time.
func ReadRequestLogJSONL(r io.Reader) ([]Request, error) {
	var rows []timed
	err := eachLine(r, func(line []byte) error {
		var row struct {
			Queued  *float64 `json:"queued_ts"`
			Arrival *float64 `json:"arrival_time"`
			Input   int      `json:"input_toks"`
			Output  int      `json:"output_toks"`
		}
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		at := row.Queued // the clock of the other timestamps, where there are two
		if at == nil {
			at = row.Arrival
		}
		if at == nil {
			return errors.New("neither queued_ts nor arrival_time")
		}
		request := Request{PromptTokens: row.Input, OutputTokens: row.Output}
		rows = append(rows, timed{seconds(*at), request})
		return request.plausible(*at)
	})
	if err != nil {
		return nil, err
	}
	return inOrder(rows), nil
}

// plausible refuses values that no engine can have seen.
func (r Request) plausible(atSeconds float64) error {
	const century = 100 * 365 * 24 * 3600
	if !(atSeconds >= 0 && atSeconds < century) {
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

func eachLine(r io.Reader, use func([]byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := use(lines.Bytes()); err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrFormat, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}
