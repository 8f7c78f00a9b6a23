package workload

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	ownLog = `{"arrived": 100.5, "prompt_tokens": 40, "output_tokens": 5, "scheduled": 100.75, "first_token": 101, "end": 102.5, "cached_tokens": 32, "client": "a", "prefix": [7, 8], "prefix_block": 16}
{"arrived": 101, "prompt_tokens": 3, "output_tokens": 1}
`
	ownCSV = "client,prompt_tokens,output_tokens,arrived,first_token,end,scheduled,cached_tokens\n" +
		"a,40,5,100.5,101,102.5,100.75,32\n,3,1,101,,,,\n"
	simLog = `{"request_id": "a", "input_toks": 23, "output_toks": 5, "arrival_time": 1787267980.0, "queued_ts": 100.5, "scheduled_ts": 100.5, "first_token_ts": 101, "last_token_ts": 103}
{"request_id": "b", "input_toks": 23, "output_toks": 5, "arrival_time": 1787267980.0, "scheduled_ts": 100.5, "first_token_ts": 101, "last_token_ts": 103}
`
)

func served(t *testing.T, rows ServedRows) (all []Served) {
	t.Helper()
	for s, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func TestServed(t *testing.T) {
	first := Served{
		Request: Request{PromptTokens: 40, OutputTokens: 5, Client: "a", Prefix: []uint64{7, 8}, PrefixBlock: 16},
		Arrived: seconds(100.5), Scheduled: seconds(100.75), FirstToken: seconds(101), End: seconds(102.5), Cached: 32,
	}
	second := Served{Request: Request{PromptTokens: 3, OutputTokens: 1}, Arrived: seconds(101)}
	if diff := cmp.Diff([]Served{first, second}, served(t, ServedJSONL(strings.NewReader(ownLog)))); diff != "" {
		t.Errorf("own JSON (-want +got):\n%s", diff)
	}
	first.Prefix, first.PrefixBlock = nil, 0
	if diff := cmp.Diff([]Served{first, second}, served(t, ServedCSV(strings.NewReader(ownCSV)))); diff != "" {
		t.Errorf("own CSV (-want +got):\n%s", diff)
	}
	got := served(t, ServedJSONL(strings.NewReader(simLog)))
	want := []Served{
		{Request: Request{PromptTokens: 23, OutputTokens: 5}, Arrived: seconds(100.5), Scheduled: seconds(100.5), FirstToken: seconds(101), End: seconds(103)},
		{Request: Request{PromptTokens: 23, OutputTokens: 5}, Arrived: seconds(1787267980)}, // the other times are on another clock
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("LLMServingSim (-want +got):\n%s", diff)
	}
}

func TestServedRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		rows ServedRows
		text string
	}{
		"no arrival":        {ServedJSONL(strings.NewReader("\n{\"prompt_tokens\": 1}")), "line 2: none of arrived"},
		"ends before":       {ServedJSONL(strings.NewReader(`{"arrived": 5, "prompt_tokens": 1, "output_tokens": 1, "end": 4}`)), "end at 4 s"},
		"first after end":   {ServedJSONL(strings.NewReader(`{"arrived": 5, "prompt_tokens": 1, "output_tokens": 1, "first_token": 9, "end": 8}`)), "end at 8 s"},
		"more cached":       {ServedJSONL(strings.NewReader(`{"arrived": 5, "prompt_tokens": 1, "output_tokens": 1, "cached_tokens": 2}`)), "2 of 1"},
		"prefix of nothing": {ServedJSONL(strings.NewReader(`{"arrived": 5, "prompt_tokens": 1, "output_tokens": 1, "prefix": [1]}`)), "blocks of 0"},
		"no time":           {ServedCSV(strings.NewReader("arrived,prompt_tokens,output_tokens\n,1,1\n")), "line 2: arrived"},
		"no column":         {ServedCSV(strings.NewReader("arrived,prompt_tokens\n1,1\n")), "output_tokens"},
		"not a number":      {ServedCSV(strings.NewReader("arrived,prompt_tokens,output_tokens,end\nNaN,1,1,3\n")), "line 2"},
	} {
		var last error
		for _, err := range c.rows {
			last = err
		}
		if !errors.Is(last, ErrFormat) || !strings.Contains(last.Error(), c.text) {
			t.Errorf("%s: %v, want it to name %q", name, last, c.text)
		}
	}
}

// endless repeats a line for ever, as a stream that nobody can hold in memory.
type endless struct{ line string }

func (e endless) Read(p []byte) (n int, err error) {
	for n+len(e.line) <= len(p) {
		n += copy(p[n:], e.line)
	}
	return n, nil
}

// TestRowsStream: rows come while the file is read, and reading ends when nobody wants more.
func TestRowsStream(t *testing.T) {
	for name, rows := range map[string]func() int{
		"Mooncake": func() int {
			return take(MooncakeJSONL(endless{`{"timestamp": 1, "input_length": 2, "output_length": 3}` + "\n"}))
		},
		"log": func() int {
			return take(ServedJSONL(endless{`{"arrived": 1, "prompt_tokens": 2, "output_tokens": 3}` + "\n"}))
		},
	} {
		done := make(chan int, 1)
		go func() { done <- rows() }()
		select {
		case n := <-done:
			if n != 1000 {
				t.Errorf("%s: %d rows", name, n)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the stream was read to its end, which it does not have", name)
		}
	}
}

func take[T any](rows func(func(T, error) bool)) (n int) {
	for _, err := range rows {
		if n++; err != nil || n == 1000 {
			break
		}
	}
	return n
}

func FuzzServed(f *testing.F) {
	f.Add(ownLog)
	f.Add(ownCSV)
	f.Add(simLog)
	f.Add(`{"arrived": 1e300}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, rows := range []ServedRows{ServedJSONL(strings.NewReader(text)), ServedCSV(strings.NewReader(text))} {
			for s, err := range rows {
				if err == nil && (s.Cached > s.PromptTokens || !s.End.IsZero() && s.End.Before(s.Arrived)) {
					t.Fatalf("%+v", s)
				}
			}
		}
	})
}
