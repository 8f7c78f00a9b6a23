package workload

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	azureSample = "TIMESTAMP,ContextTokens,GeneratedTokens\n" +
		"2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:51.2225670,879,0\n"
	mooncakeSample = `{"timestamp": 1000, "input_length": 600, "output_length": 50, "hash_ids": [0, 1]}

{"timestamp": 4000, "input_length": 700, "output_length": 9, "hash_ids": [0, 2]}
`
	logSample = `{"request_id": "a", "input_toks": 23, "output_toks": 5, "arrival_time": 1787267980.0, "queued_ts": 100.5}
{"request_id": "b", "input_toks": 10, "output_toks": 7, "arrival_time": 1787267981.0, "queued_ts": 102}
`
)

func TestReaders(t *testing.T) {
	cases := []struct {
		name string
		read func(io.Reader) ([]Request, error)
		give string
		want []Request
	}{
		{"Azure, sorted, without empty answers", ReadAzureCSV, azureSample, []Request{
			{PromptTokens: 374, OutputTokens: 44},
			{Offset: 4314579 * time.Microsecond, PromptTokens: 396, OutputTokens: 109},
		}},
		{"Mooncake", ReadMooncakeJSONL, mooncakeSample, []Request{
			{PromptTokens: 600, OutputTokens: 50, Prefix: []uint64{0, 1}, PrefixBlock: 512},
			{Offset: 3 * time.Second, PromptTokens: 700, OutputTokens: 9, Prefix: []uint64{0, 2}, PrefixBlock: 512},
		}},
		{"request log, by queue time", ReadRequestLogJSONL, logSample, []Request{
			{PromptTokens: 23, OutputTokens: 5},
			{Offset: 1500 * time.Millisecond, PromptTokens: 10, OutputTokens: 7},
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.read(strings.NewReader(c.give))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("trace (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadersRefuse(t *testing.T) {
	cases := []struct {
		name string
		read func(io.Reader) ([]Request, error)
		give string
		text string
	}{
		{"empty CSV", ReadAzureCSV, "", "header"},
		{"other columns", ReadAzureCSV, "a,b\n1,2\n", "ContextTokens"},
		{"bad time", ReadAzureCSV, "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n", "line 2"},
		{"bad count", ReadAzureCSV, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,-1\n", "line 2"},
		{"broken JSON", ReadMooncakeJSONL, "{\n", "line 1"},
		{"negative time", ReadMooncakeJSONL, `{"timestamp": -5, "input_length": 1, "output_length": 1}`, "line 1"},
		{"a line without end", ReadMooncakeJSONL, strings.Repeat(" ", maxLine+1), "line 1"},
		{"a record without end", ReadAzureCSV, azureSample + strings.Repeat("1", maxLine+1), "longer"},
		{"huge prompt", ReadMooncakeJSONL, `{"timestamp": 5, "input_length": 1e9, "output_length": 1}`, "line 1"},
		{"no time", ReadRequestLogJSONL, `{"input_toks": 1, "output_toks": 1}`, "queued_ts"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.read(strings.NewReader(c.give)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v naming %q", err, ErrFormat, c.text)
			}
		})
	}
}

// checkTrace fails unless offsets rise from 0 and lengths are positive.
func checkTrace(t *testing.T, trace []Request) {
	t.Helper()
	for i, r := range trace {
		if r.PromptTokens <= 0 || r.OutputTokens <= 0 || r.Offset < 0 || i > 0 && r.Offset < trace[i-1].Offset {
			t.Fatalf("request %d of the trace: %+v", i, r)
		}
	}
}

func FuzzReadAzureCSV(f *testing.F) {
	f.Add(azureSample)
	f.Add("TIMESTAMP,ContextTokens,GeneratedTokens\n0001-01-01 00:00:00,1,1\n9999-01-01 00:00:00,1,1\n")
	f.Fuzz(func(t *testing.T, text string) {
		trace, _ := ReadAzureCSV(strings.NewReader(text))
		checkTrace(t, trace)
	})
}

func FuzzReadJSONL(f *testing.F) {
	f.Add(mooncakeSample)
	f.Add(logSample)
	f.Add(`{"timestamp": 1e18}`)
	f.Fuzz(func(t *testing.T, text string) {
		trace, _ := ReadMooncakeJSONL(strings.NewReader(text))
		checkTrace(t, trace)
		trace, _ = ReadRequestLogJSONL(strings.NewReader(text))
		checkTrace(t, trace)
	})
}
