package loadtest

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPromptsShareBlocks(t *testing.T) {
	shared := []Block{{ID: 7, Tokens: 10}, {ID: 8, Tokens: 10}}
	a, b := promptIDs(30, 1000, shared, 1, 1), promptIDs(25, 1000, shared, 1, 2)
	if len(a) != 30 || len(b) != 25 || !slices.Equal(a[:20], b[:20]) || slices.Equal(a[20:25], b[20:25]) {
		t.Errorf("%v\n%v", a, b)
	}
	if c := promptIDs(30, 1000, []Block{{ID: 9, Tokens: 10}, {ID: 8, Tokens: 10}}, 1, 1); slices.Equal(a[:10], c[:10]) || !slices.Equal(a[10:], c[10:]) {
		t.Errorf("blocks depend on others: %v\n%v", a, c)
	}
	if short := promptIDs(15, 1000, shared, 1, 3); !slices.Equal(short, a[:15]) {
		t.Errorf("cut within a block: %v", short)
	}
	if slices.Max(a) >= 1000 || len(promptIDs(0, 10, nil, 1, 1)) != 1 {
		t.Error("ids out of bounds")
	}
	if w := strings.Fields(prompt(12, shared, 1, 1)); len(w) != 12 {
		t.Errorf("%d words", len(w))
	}
}

func TestTokenIDBodies(t *testing.T) {
	for api, want := range map[API]string{OpenAICompletions: `"prompt":[3,4]`, SGLangGenerate: `"input_ids":[3,4]`} {
		if got, err := api.body("m", "", []int{3, 4}, 7); err != nil || !strings.Contains(string(got), want) || strings.Contains(string(got), `"text"`) {
			t.Errorf("%s: %s, %v", api, got, err)
		}
	}
	_, err := New(Config{Source: &every{}, Vocabulary: 9, Targets: []Target{{URL: "http://a", API: OpenAIChat}, {URL: "http://a", API: TGIGenerateStream}}})
	if err == nil || strings.Count(err.Error(), "takes no token ids") != 2 {
		t.Errorf("error %v", err)
	}
}

// The expected figures are NumPy's percentile and std of the same values.
func TestLatencyIsNumPys(t *testing.T) {
	got := latency([]float64{5, 1, 4, 2, 3, 10})
	want := Latency{Count: 6, Mean: 25. / 6, Std: 2.9107081994288304, P50: 3.5, P95: 8.75, P99: 9.75}
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
