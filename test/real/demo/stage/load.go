package stage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// Traffic is an open loop: independent arrivals at one rate, fixed lengths.
type Traffic struct {
	Rate         float64 // requests per second
	PromptWords  int     // the tiny model's tokenizer makes about three tokens of a word
	SharedWords  int     // of them, at the beginning and the same in all prompts
	OutputTokens int
	Seed         uint64
}

// patience of a client: longer than any restart.
const patience = 6 * time.Minute

// Load is traffic under way and what became of it.
type Load struct {
	Traffic Traffic
	cancel  context.CancelFunc
	ended   chan struct{}

	mu      sync.Mutex // guards records
	records []loadtest.Record
}

// Send starts traffic through the gateway.
func (s *Stage) Send(t Traffic) (*Load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{Traffic: t, cancel: cancel, ended: make(chan struct{})}
	runner, err := loadtest.New(loadtest.Config{
		Targets: []loadtest.Target{{URL: s.gateway.URL, API: loadtest.OpenAICompletions}},
		Source:  &poisson{traffic: t, rng: rand.New(rand.NewPCG(t.Seed, 0))},
		Model:   engine.Model, Seed: t.Seed, Timeout: patience, DrainWait: patience,
		OnRecord: func(r loadtest.Record) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.records = append(l.records, r)
		},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	s.loads = append(s.loads, l)
	go func() {
		defer close(l.ended)
		_ = runner.Run(ctx) // failures are in the records
	}()
	return l, nil
}

// End sends no more, waits for what is open and returns all records.
func (l *Load) End() []loadtest.Record {
	l.cancel()
	<-l.ended
	return l.Records()
}

// Records of the requests that have ended so far.
func (l *Load) Records() []loadtest.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// poisson implements loadtest.Source.
type poisson struct {
	traffic Traffic
	rng     *rand.Rand
	at      time.Duration
}

func (p *poisson) Next() (loadtest.Request, bool) {
	p.at += time.Duration(p.rng.ExpFloat64() / p.traffic.Rate * float64(time.Second))
	words := make([]string, 0, p.traffic.PromptWords)
	shared := rand.New(rand.NewPCG(p.traffic.Seed, 1))
	for i := range p.traffic.PromptWords {
		from := p.rng
		if i < p.traffic.SharedWords {
			from = shared
		}
		words = append(words, syllables[from.IntN(len(syllables))]+syllables[from.IntN(len(syllables))])
	}
	return loadtest.Request{Offset: p.at, Prompt: strings.Join(words, " "), PromptTokens: p.traffic.PromptWords, OutputTokens: p.traffic.OutputTokens}, true
}

var syllables = strings.Fields("ka lo mi ne ru sa to vi wen xa yo zu bar del fin gor")

// Measured is what clients saw of the requests that ended in a span; latencies count from when a
// request was due.
type Measured struct {
	Seconds           float64 `json:"seconds"`
	Requests          int     `json:"requests"`
	Failed            int     `json:"failed"`
	RequestsPerSecond float64 `json:"requests_per_second"`
	TokensPerSecond   float64 `json:"tokens_per_second"`
	PromptTokens      float64 `json:"prompt_tokens_mean"`
	Good              float64 `json:"goodput_requests_per_second"` // ended within GoodE2E
	TTFTP50           float64 `json:"ttft_p50_seconds"`
	TTFTP95           float64 `json:"ttft_p95_seconds"`
	E2EP50            float64 `json:"e2e_p50_seconds"`
	E2EP95            float64 `json:"e2e_p95_seconds"`
}

// GoodE2E is the time within which a request counts as goodput.
const GoodE2E = 5 * time.Second

// Measure the requests that ended from one time to another.
func Measure(records []loadtest.Record, from, to time.Time) Measured {
	m := Measured{Seconds: to.Sub(from).Seconds()}
	var ttft, e2e []float64
	var tokens, prompt, good int
	for _, r := range records {
		if r.Done.Before(from) || !r.Done.Before(to) {
			continue
		}
		if r.Failed != "" {
			m.Failed++
			continue
		}
		m.Requests++
		tokens, prompt = tokens+r.Tokens, prompt+r.PromptTokens
		ttft, e2e = append(ttft, r.TTFT().Seconds()), append(e2e, r.E2E().Seconds())
		if r.E2E() <= GoodE2E {
			good++
		}
	}
	if m.Requests == 0 || m.Seconds <= 0 {
		return m
	}
	m.RequestsPerSecond, m.TokensPerSecond = float64(m.Requests)/m.Seconds, float64(tokens)/m.Seconds
	m.Good, m.PromptTokens = float64(good)/m.Seconds, float64(prompt)/float64(m.Requests)
	m.TTFTP50, m.TTFTP95 = quantile(ttft, 0.5), quantile(ttft, 0.95)
	m.E2EP50, m.E2EP95 = quantile(e2e, 0.5), quantile(e2e, 0.95)
	return m
}

func quantile(v []float64, q float64) float64 {
	slices.Sort(v)
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

func (m Measured) String() string {
	return fmt.Sprintf("%.1f requests/s, %.0f output tokens/s, E2E p50 %.1f s p95 %.1f s", m.RequestsPerSecond, m.TokensPerSecond, m.E2EP50, m.E2EP95)
}

// Failures are the records of requests that were not answered in full.
func Failures(records []loadtest.Record) []loadtest.Record {
	return slices.DeleteFunc(slices.Clone(records), func(r loadtest.Record) bool { return r.Failed == "" })
}
