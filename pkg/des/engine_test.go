package des

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// costFunc makes a function a Cost.
type costFunc func(StepShape) float64

func (f costFunc) StepSeconds(s StepShape) float64 { return f(s) }

// oneSecond makes step numbers readable as seconds.
var oneSecond = costFunc(func(StepShape) float64 { return 1 })

// drive submits all requests at once, steps until nothing is left, and writes one line per step.
func drive(t *testing.T, e *Engine, requests ...Request) (lines []string) {
	t.Helper()
	for _, r := range requests {
		if err := e.Submit(0, r); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Duration(0)
	for e.HasWork() {
		s := e.Step(now)
		if s.Idle || len(lines) > 200 {
			t.Fatalf("stuck after %q", lines)
		}
		now += s.Duration
		lines = append(lines, describeStep(s))
	}
	return lines
}

func describeStep(s Step) string {
	line := fmt.Sprintf("decode %d, chunks %v:", s.Shape.Decoding, s.Shape.Chunks)
	for _, id := range s.Preempted {
		line += fmt.Sprintf(" preempted %d", id)
	}
	for _, tok := range s.Tokens {
		line += fmt.Sprintf(" %d#%d", tok.ID, tok.N)
		if tok.Done {
			line += " done"
		}
	}
	return line
}

func TestSchedules(t *testing.T) {
	cases := []struct {
		name     string
		cfg      Config
		requests []Request
		want     []string
	}{
		{
			name: "a prompt takes what is left of the budget beside decoding",
			cfg:  Config{MaxBatchedTokens: 10, ChunkedPrefill: true, BlockSize: 1, KVTokens: 1000},
			requests: []Request{
				{ID: 1, PromptTokens: 4, OutputTokens: 3},
				{ID: 2, PromptTokens: 20, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{4 0} {6 0}]: 1#1",
				"decode 1, chunks [{9 6}]: 1#2",
				"decode 1, chunks [{5 15}]: 1#3 done 2#1 done",
			},
		},
		{
			name: "without chunking a prompt waits for a step that fits it",
			cfg:  Config{MaxBatchedTokens: 10, BlockSize: 1, KVTokens: 1000},
			requests: []Request{
				{ID: 1, PromptTokens: 6, OutputTokens: 2},
				{ID: 2, PromptTokens: 8, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{6 0}]: 1#1",
				"decode 1, chunks [{8 0}]: 1#2 done 2#1 done",
			},
		},
		{
			name: "a long prompt leaves room for a short one under the threshold",
			cfg:  Config{MaxBatchedTokens: 10, ChunkedPrefill: true, LongPrefillThreshold: 6, BlockSize: 1, KVTokens: 1000},
			requests: []Request{
				{ID: 1, PromptTokens: 12, OutputTokens: 1},
				{ID: 2, PromptTokens: 4, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{6 0} {4 0}]: 2#1 done",
				"decode 0, chunks [{6 6}]: 1#1 done",
			},
		},
		{
			name: "the sequence limit holds the queue",
			cfg:  Config{MaxNumSeqs: 1, ChunkedPrefill: true, BlockSize: 1, KVTokens: 1000},
			requests: []Request{
				{ID: 1, PromptTokens: 2, OutputTokens: 2},
				{ID: 2, PromptTokens: 2, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{2 0}]: 1#1",
				"decode 1, chunks []: 1#2 done",
				"decode 0, chunks [{2 0}]: 2#1 done",
			},
		},
		{
			name: "the last admitted is preempted and recomputes prompt and output",
			cfg:  Config{ChunkedPrefill: true, BlockSize: 1, KVTokens: 12},
			requests: []Request{
				{ID: 1, PromptTokens: 5, OutputTokens: 4},
				{ID: 2, PromptTokens: 5, OutputTokens: 3},
			},
			want: []string{
				"decode 0, chunks [{5 0} {5 0}]: 1#1 2#1",
				"decode 2, chunks []: 1#2 2#2",
				"decode 1, chunks []: preempted 2 1#3",
				"decode 1, chunks []: 1#4 done", // 4 blocks are left, 2 needs 7
				"decode 0, chunks [{7 0}]: 2#3 done",
			},
		},
		{
			name: "a preempted sequence leaves the step it was scheduled in",
			cfg:  Config{ChunkedPrefill: true, MaxBatchedTokens: 6, LongPrefillThreshold: 4, BlockSize: 1, KVTokens: 12},
			requests: []Request{
				{ID: 1, PromptTokens: 10, OutputTokens: 1},
				{ID: 2, PromptTokens: 2, OutputTokens: 3},
			},
			want: []string{
				"decode 0, chunks [{4 0} {2 0}]: 2#1",
				"decode 1, chunks [{4 4}]: 2#2",
				"decode 0, chunks [{2 8}]: preempted 2 1#1 done",
				"decode 0, chunks [{4 0}]: 2#3 done",
			},
		},
		{
			name: "the watermark keeps an admission out that would fit",
			cfg:  Config{ChunkedPrefill: true, BlockSize: 1, KVTokens: 12, Watermark: .5},
			requests: []Request{
				{ID: 1, PromptTokens: 5, OutputTokens: 1},
				{ID: 2, PromptTokens: 5, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{5 0}]: 1#1 done",
				"decode 0, chunks [{5 0}]: 2#1 done",
			},
		},
		{
			name: "reserving the full prompt keeps a first chunk out",
			cfg:  Config{ChunkedPrefill: true, MaxBatchedTokens: 6, BlockSize: 1, KVTokens: 12, ReserveFullPrompt: true},
			requests: []Request{
				{ID: 1, PromptTokens: 4, OutputTokens: 2},
				{ID: 2, PromptTokens: 10, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{4 0}]: 1#1",
				"decode 1, chunks []: 1#2 done",
				"decode 0, chunks [{6 0}]:",
				"decode 0, chunks [{4 6}]: 2#1 done",
			},
		},
		{
			name: "priority goes before arrival",
			cfg:  Config{MaxNumSeqs: 1, BlockSize: 1, KVTokens: 1000},
			requests: []Request{
				{ID: 1, PromptTokens: 2, OutputTokens: 1, Priority: 1},
				{ID: 2, PromptTokens: 2, OutputTokens: 1},
			},
			want: []string{"decode 0, chunks [{2 0}]: 2#1 done", "decode 0, chunks [{2 0}]: 1#1 done"},
		},
		{
			name: "SGLang computes prompts before it decodes",
			cfg:  Config{Dialect: SGLang, MaxBatchedTokens: 10, ChunkedPrefill: true, BlockSize: 1, KVTokens: 1000},
			requests: []Request{
				{ID: 1, PromptTokens: 6, OutputTokens: 2},
				{ID: 2, PromptTokens: 10, OutputTokens: 2},
			},
			want: []string{
				"decode 0, chunks [{6 0} {4 0}]: 1#1",
				"decode 0, chunks [{6 4}]: 2#1",
				"decode 2, chunks []: 1#2 done 2#2 done",
			},
		},
		{
			name: "SGLang's overlapped loop finds out a step late that a place is free",
			cfg:  Config{Dialect: SGLang, MaxNumSeqs: 2, ChunkedPrefill: true, BlockSize: 1, KVTokens: 1000, AsyncScheduling: true},
			requests: []Request{
				{ID: 1, PromptTokens: 6, OutputTokens: 2},
				{ID: 2, PromptTokens: 4, OutputTokens: 4},
				{ID: 3, PromptTokens: 5, OutputTokens: 2},
				{ID: 4, PromptTokens: 7, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{6 0} {4 0}]: 1#1 2#1",
				"decode 2, chunks []: 1#2 done 2#2",
				"decode 1, chunks []: 2#3",
				"decode 0, chunks [{5 0}]: 3#1",
				"decode 2, chunks []: 2#4 done 3#2 done",
				"decode 0, chunks [{7 0}]: 4#1 done",
			},
		},
		{
			name: "SGLang admits on a share of the limits and retracts when that was too little",
			cfg:  Config{Dialect: SGLang, ChunkedPrefill: true, BlockSize: 1, KVTokens: 20, Conservativeness: .1},
			requests: []Request{
				{ID: 1, PromptTokens: 3, OutputTokens: 12},
				{ID: 2, PromptTokens: 3, OutputTokens: 11},
			},
			want: append(append([]string{"decode 0, chunks [{3 0}]: 1#1", "decode 0, chunks [{3 0}]: 2#1"},
				twoDecoding(2, 8)...),
				"decode 1, chunks []: preempted 2 1#9", "decode 1, chunks []: 1#10", "decode 1, chunks []: 1#11", "decode 1, chunks []: 1#12 done",
				"decode 0, chunks [{11 0}]: 2#9", "decode 1, chunks []: 2#10", "decode 1, chunks []: 2#11 done"),
		},
		{
			name: "TGI reserves prompt and limit, so the second waits",
			cfg:  Config{Dialect: TGI, ChunkedPrefill: true, BlockSize: 1, KVTokens: 20},
			requests: []Request{
				{ID: 1, PromptTokens: 5, OutputTokens: 2, MaxNewTokens: 10},
				{ID: 2, PromptTokens: 5, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{5 0}]: 1#1",
				"decode 1, chunks []: 1#2 done",
				"decode 0, chunks [{5 0}]: 2#1 done",
			},
		},
		{
			name: "TGI without chunking gives prompts steps of their own",
			cfg:  Config{Dialect: TGI, MaxBatchedTokens: 6, BlockSize: 1, KVTokens: 100},
			requests: []Request{
				{ID: 1, PromptTokens: 4, OutputTokens: 2},
				{ID: 2, PromptTokens: 4, OutputTokens: 1},
			},
			want: []string{
				"decode 0, chunks [{4 0}]: 1#1",
				"decode 0, chunks [{4 0}]: 2#1 done",
				"decode 1, chunks []: 1#2 done",
			},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, drive(t, New(c.cfg, oneSecond, 1), c.requests...)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

// twoDecoding is the lines of requests 1 and 2 decoding side by side, with as many tokens each.
func twoDecoding(from, to int) (lines []string) {
	for n := from; n <= to; n++ {
		lines = append(lines, fmt.Sprintf("decode 2, chunks []: 1#%d 2#%d", n, n))
	}
	return lines
}

func TestSubmitRefuses(t *testing.T) {
	cases := []struct {
		name   string
		cfg    Config
		before int // requests already inside
		give   Request
		want   error
	}{
		{"queue full", Config{MaxQueued: 2}, 2, Request{ID: 9, PromptTokens: 5, OutputTokens: 5}, ErrQueueFull},
		{"too many inside", Config{Dialect: TGI, MaxConcurrent: 2}, 2, Request{ID: 9, PromptTokens: 5, OutputTokens: 5}, ErrOverloaded},
		{"longer than the model length", Config{MaxModelLen: 64, ChunkedPrefill: true}, 0, Request{ID: 9, PromptTokens: 64, OutputTokens: 1}, ErrTooLong},
		{"longer than the cache", Config{KVTokens: 64, MaxModelLen: 4096, ChunkedPrefill: true}, 0, Request{ID: 9, PromptTokens: 70, OutputTokens: 1}, ErrTooLong},
		{"longer than a step without chunking", Config{MaxBatchedTokens: 64}, 0, Request{ID: 9, PromptTokens: 70, OutputTokens: 1}, ErrTooLong},
		{"no prompt", Config{}, 0, Request{ID: 9, OutputTokens: 1}, ErrInvalid},
		{"id in use", Config{}, 1, Request{ID: 0, PromptTokens: 5, OutputTokens: 5}, ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := New(c.cfg, oneSecond, 1)
			for i := range c.before {
				if err := e.Submit(0, Request{ID: uint64(i), PromptTokens: 5, OutputTokens: 5}); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.Submit(0, c.give); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestOutputEndsAtModelLength(t *testing.T) {
	e := New(Config{MaxModelLen: 10, ChunkedPrefill: true}, oneSecond, 1)
	lines := drive(t, e, Request{ID: 1, PromptTokens: 7, OutputTokens: 100})
	if got := e.Stats().GeneratedTokens; got != 3 || len(lines) != 3 {
		t.Errorf("generated %d tokens in %d steps, want 3", got, len(lines))
	}
}

func TestAbort(t *testing.T) {
	e := New(Config{MaxNumSeqs: 1, ChunkedPrefill: true}, oneSecond, 1)
	for id := range uint64(2) {
		if err := e.Submit(0, Request{ID: id, PromptTokens: 30, OutputTokens: 30}); err != nil {
			t.Fatal(err)
		}
	}
	e.Step(0)
	if st := e.Stats(); st.Running != 1 || st.Waiting != 1 || st.KVUsed != 32 {
		t.Fatalf("before: %+v", st)
	}
	if !e.Abort(1) || !e.Abort(0) || e.Abort(0) {
		t.Error("each request should be abortable once")
	}
	if st := e.Stats(); st.Running != 0 || st.Waiting != 0 || st.KVUsed != 0 || st.Aborted != 2 {
		t.Errorf("after: %+v", st)
	}
	if e.HasWork() || !e.Step(time.Second).Idle {
		t.Error("an empty engine should idle")
	}
}

func TestPrefixCache(t *testing.T) {
	prefix := []uint64{11, 12, 13} // three blocks of four tokens
	e := New(Config{PrefixCaching: true, ChunkedPrefill: true, BlockSize: 4, KVTokens: 40}, oneSecond, 1)
	drive(t, e, Request{ID: 1, PromptTokens: 14, OutputTokens: 2, PrefixHashes: prefix})
	if st := e.Stats(); st.KVUsed != 0 || st.PrefixHitTokens != 0 || st.PrefixQueryTokens != 14 {
		t.Fatalf("first: %+v", st)
	}
	want := []string{"decode 0, chunks [{2 12}]: 2#1 done"}
	if diff := cmp.Diff(want, drive(t, e, Request{ID: 2, PromptTokens: 14, OutputTokens: 1, PrefixHashes: prefix})); diff != "" {
		t.Errorf("a cached prefix is computed again:\n%s", diff)
	}
	want = []string{"decode 0, chunks [{4 8}]: 3#1 done"}
	if diff := cmp.Diff(want, drive(t, e, Request{ID: 3, PromptTokens: 12, OutputTokens: 1, PrefixHashes: prefix})); diff != "" {
		t.Errorf("at least one token is computed, and caches hold whole blocks:\n%s", diff)
	}
	drive(t, e, Request{ID: 4, PromptTokens: 39, OutputTokens: 1}) // takes all ten blocks
	want = []string{"decode 0, chunks [{14 0}]: 5#1 done"}
	if diff := cmp.Diff(want, drive(t, e, Request{ID: 5, PromptTokens: 14, OutputTokens: 1, PrefixHashes: prefix})); diff != "" {
		t.Errorf("an evicted prefix is still a hit:\n%s", diff)
	}
}

// TestPreemptedFindsItsBlocks shows that a preempted sequence recomputes only what others overwrote.
func TestPreemptedFindsItsBlocks(t *testing.T) {
	cfg := Config{ChunkedPrefill: true, PrefixCaching: true, BlockSize: 1, KVTokens: 12}
	got := drive(t, New(cfg, oneSecond, 1),
		Request{ID: 1, PromptTokens: 5, OutputTokens: 4}, Request{ID: 2, PromptTokens: 5, OutputTokens: 3})
	want := []string{
		"decode 0, chunks [{5 0} {5 0}]: 1#1 2#1",
		"decode 2, chunks []: 1#2 2#2",
		"decode 1, chunks []: preempted 2 1#3",
		"decode 1, chunks []: 1#4 done",
		"decode 0, chunks [{3 4}]: 2#3 done", // two of its six blocks went to request 1
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestStepNoiseKeepsTheMean(t *testing.T) {
	e := New(Config{StepNoise: .2, ChunkedPrefill: true, KVTokens: 20000}, oneSecond, 3)
	drive1 := func() (sum time.Duration, n int) {
		if err := e.Submit(0, Request{ID: 1, PromptTokens: 1, OutputTokens: 10000}); err != nil {
			t.Fatal(err)
		}
		for e.HasWork() {
			sum += e.Step(sum).Duration
			n++
		}
		return sum, n
	}
	sum, n := drive1()
	if mean := sum.Seconds() / float64(n); mean < .98 || mean > 1.02 {
		t.Errorf("mean step %.3f s, want 1", mean)
	}
	if e.Stats().Busy != sum {
		t.Errorf("busy %s, want %s", e.Stats().Busy, sum)
	}
}
