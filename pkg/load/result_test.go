package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// The expected figures are NumPy's percentile and std of the same values.
func TestLatencyIsNumPys(t *testing.T) {
	got := latency([]float64{5, 1, 4, 2, 3, 10})
	want := Spread{Count: 6, Mean: 25. / 6, Std: 2.9107081994288304, P50: 3.5, P95: 8.75, P99: 9.75}
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
	if !near(got.Mean, want.Mean) || !near(got.Std, want.Std) || !near(got.P50, want.P50) || !near(got.P95, want.P95) || !near(got.P99, want.P99) || got.Count != 6 {
		t.Errorf("%+v, want %+v", got, want)
	}
	if one := latency([]float64{7}); one.P50 != 7 || one.P99 != 7 || one.Std != 0 {
		t.Errorf("of one value: %+v", one)
	}
}

func TestResult(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(s float64) time.Time { return zero.Add(time.Duration(s * float64(time.Second))) }
	records := []Record{ // in the order in which they ended
		{Number: 1, Intended: at(1), Sent: at(1.5), FirstToken: at(1.6), LastToken: at(2.6), Done: at(2.6), Tokens: 3, PromptTokens: 20, GapsUS: []int64{500_000, 500_000}},
		{Number: 0, Intended: at(0), Sent: at(0), FirstToken: at(1), LastToken: at(2), Done: at(2.7), Tokens: 11, PromptTokens: 10, GapsUS: []int64{1_000_000}},
		{Number: 2, Intended: at(2), Sent: at(2), FirstToken: at(2.1), LastToken: at(2.1), Done: at(3), Tokens: 1, PromptTokens: 30, Failed: FailedCut, Detail: "EOF"},
		{Number: 3, Intended: at(2.5), Done: at(3), PromptTokens: 40, Failed: FailedNotReady},
	}
	s := Summarize(records, time.Time{}, time.Time{}, Objectives{})
	if s.PromptTokens != 30 || s.OutputTokens != 14 || s.PeakInFlight != 2 || s.PeakOutputTokens != 3 || s.Lateness.P50 != .25 {
		t.Errorf("%+v", s)
	}
	var b strings.Builder
	if err := NewResult(records, s, "m").Write(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"duration": `3`, "completed": `2`, "failed": `2`, "num_prompts": `4`, "model_id": `"m"`,
		"total_input_tokens": `30`, "total_output_tokens": `14`, "input_lens": `[10,20,30,40]`, "output_lens": `[11,3,0,0]`,
		"ttfts": `[1,0.1,0.1,0]`, "itls": `[[1],[0.5,0.5],[],[]]`, "latencies": `[2,1.1,0.1,0]`,
		"start_times": `[0,1.5,2,0]`, "queue_times": `[0,0.5,0,0]`, "errors": `["","","cut: EOF","not_ready: "]`,
		"p50_tpot_ms": `300`, "median_e2el_ms": `1550`,
	} {
		if v, ok := got[key].(float64); ok {
			got[key] = math.Round(v*1e9) / 1e9
		}
		if raw, err := json.Marshal(got[key]); err != nil || string(raw) != want {
			t.Errorf("%s is %s, want %s (%v)", key, raw, want, err)
		}
	}
}

func TestLogRoundTrip(t *testing.T) {
	at := time.Unix(1000, 0).UTC()
	want := Record{Number: 3, Target: "a", Intended: at, Sent: at, FirstToken: at.Add(time.Second), LastToken: at.Add(2 * time.Second), Done: at.Add(2 * time.Second), Tokens: 4, GapsUS: []int64{5, 6}, Status: 200}
	var b bytes.Buffer
	l := NewLog(&b)
	l.Add(want)
	l.Add(Record{Number: 4})
	b.WriteString(`{"n":5,"inten`)
	got, err := ReadRecords(&b)
	if err != nil || len(got) != 2 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := ReadRecords(strings.NewReader("{\n")); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("broken line: %v", err)
	}
	full := errors.New("full")
	broken := NewLog(writerFunc(func([]byte) (int, error) { return 0, full }))
	broken.Add(want)
	broken.Add(want)
	if err := broken.Err(); !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
}

func TestSummarize(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(s float64) time.Time { return zero.Add(time.Duration(s * float64(time.Second))) }
	ok := func(due, first, last float64, tokens int) Record {
		return Record{Intended: at(due), Sent: at(due), FirstToken: at(first), LastToken: at(last), Done: at(last), Tokens: tokens, PromptTokens: 10}
	}
	records := []Record{
		ok(-4, 0, 10, 100),   // due before the span: only half of its tokens count
		ok(1, 1.1, 2.1, 11),  // TTFT .1, TPOT .1
		ok(2, 3, 4, 11),      // TTFT 1: late
		ok(3, 3.1, 13.1, 11), // TPOT 1: slow; 19 % of it in the span
		{Intended: at(4), Done: at(4), Failed: "http_503"},
		ok(6, 6.1, 7, 11), // due after the span
	}
	s := Summarize(records, at(0), at(5), Objectives{TTFT: 500 * time.Millisecond, TPOT: 200 * time.Millisecond})
	if s.Requests != 4 || s.Succeeded != 3 || s.Failed != 1 || s.FailedBy["http_503"] != 1 || s.Good != 1 || s.GoodputPerSec != .2 || s.GoodFraction != .25 {
		t.Errorf("%+v", s)
	}
	if want := (50 + 11 + 11 + 11*.19) / 5; s.OutputTokensPerSec < want-.01 || s.OutputTokensPerSec > want+.01 {
		t.Errorf("%v tokens/s, want %v", s.OutputTokensPerSec, want)
	}
	if s.TTFT.Count != 3 || s.TTFT.Mean < .39 || s.TTFT.Mean > .41 || s.TPOT.P50 < .098 || s.TPOT.P50 > .102 {
		t.Errorf("TTFT %+v TPOT %+v", s.TTFT, s.TPOT)
	}
	var b strings.Builder
	if err := s.Table(&b); err != nil || !strings.Contains(b.String(), "Request goodput (req/s):                 0.20") || !strings.Contains(b.String(), "http_503") {
		t.Errorf("%v\n%s", err, b.String())
	}
	whole := Summarize(records, time.Time{}, time.Time{}, Objectives{})
	if whole.Requests != len(records) || !whole.From.Equal(at(-4)) || !whole.To.Equal(at(13.1)) {
		t.Errorf("whole run %+v", whole)
	}
	empty := Summarize(nil, time.Time{}, time.Time{}, Objectives{})
	if _, err := json.Marshal(empty); err != nil || empty.Requests != 0 {
		t.Errorf("empty %+v, %v", empty, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
