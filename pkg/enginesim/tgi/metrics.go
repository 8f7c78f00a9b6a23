package tgi

import (
	"net/http"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/expo"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
)

// metrics are the series of one router; it is the engine's observer. A series is on the page from its
// first event on. tgi_batch_max_total_tokens is left out: the real router sets it before its recorder
// is there, so its page never has it.
type metrics struct {
	reg      *expo.Registry
	families map[string]*expo.Family
	skipped  func() *expo.Series
}

// durationBounds are .0001 × 1.5ᵏ seconds for k from 1 to 35.
func durationBounds() []float64 {
	b, v := make([]float64, 35), .0001
	for i := range b {
		v *= 1.5
		b[i] = v
	}
	return b
}

// linear has a hundred steps up to top.
func linear(top int) []float64 {
	b := make([]float64, 100)
	for i := range b {
		b[i] = float64(top) / 100 * float64(i+1)
	}
	return b
}

func counting(n int) []float64 {
	b := make([]float64, n)
	for i := range b {
		b[i] = float64(i + 1)
	}
	return b
}

func newMetrics(s *settings) *metrics {
	m := &metrics{reg: expo.New(expo.Rust, 0), families: map[string]*expo.Family{}}
	for _, c := range [][2]string{
		{"tgi_request_count", "Total number of requests"},
		{"tgi_request_success", "Number of successful requests"},
		{"tgi_request_failure", "Number of failed requests"},
		{"tgi_batch_inference_count", "Inference calls per method (prefill or decode)"},
		{"tgi_batch_inference_success", "Number of successful inference calls per method (prefill or decode)"},
		{"tgi_batch_concat", ""},
	} {
		m.families[c[0]] = m.reg.Counter(c[0], c[1])
	}
	for _, g := range [][2]string{
		{"tgi_queue_size", "Current queue size"},
		{"tgi_batch_current_size", "Current batch size"},
		{"tgi_batch_current_max_tokens", "Maximum tokens for the current batch"},
	} {
		m.families[g[0]] = m.reg.Gauge(g[0], g[1])
	}
	durations := durationBounds()
	for _, h := range []struct {
		name, help string
		bounds     []float64
	}{
		{"tgi_request_duration", "Request duration", durations},
		{"tgi_request_validation_duration", "Request validation duration", durations},
		{"tgi_request_queue_duration", "Request queue duration", durations},
		{"tgi_request_inference_duration", "Request inference duration", durations},
		{"tgi_request_mean_time_per_token_duration", "Mean time per token per request", durations},
		{"tgi_request_input_length", "Input token length per request", linear(s.maxInput)},
		{"tgi_request_generated_tokens", "Generated tokens per request", linear(s.maxTotal)},
		{"tgi_request_max_new_tokens", "Maximum new tokens per request", linear(s.maxTotal)},
		{"tgi_batch_next_size", "Batch size of the next batch", counting(1024)},
		{"tgi_batch_inference_duration", "Batch inference duration", durations},
		{"tgi_batch_forward_duration", "Batch forward duration per method (prefill or decode)", durations},
		{"tgi_batch_decode_duration", "Time spent decoding a batch per method (prefill or decode)", durations},
		{"tgi_batch_filter_duration", "Time spent filtering batches and sending generated tokens per method (prefill or decode)", durations},
		{"tgi_batch_concat_duration", "", durations},
	} {
		m.families[h.name] = m.reg.Histogram(h.name, h.help, h.bounds)
	}
	skipped := m.reg.Summary("tgi_request_skipped_tokens", "Speculated tokens per request", 0, .5, .9, .95, .99, .999, 1)
	m.skipped = func() *expo.Series { return skipped.With() }
	return m
}

func (m *metrics) of(name string, labels ...string) *expo.Series {
	return m.families[name].With(labels...)
}

func (m *metrics) failed(err string) { m.of("tgi_request_failure", "err", err).Add(1) }

// counted counts a request where the real router does: once by its OpenAI-compatible route, and once
// more, like a native one, before it is validated.
func (m *metrics) counted() { m.of("tgi_request_count").Add(1) }

// valid records a request that passed validation in the given time.
func (m *metrics) valid(maxNew, input int, validation time.Duration) {
	m.of("tgi_request_input_length").Observe(float64(input))
	m.of("tgi_request_max_new_tokens").Observe(float64(maxNew))
	m.of("tgi_request_validation_duration").Observe(validation.Seconds())
}

// Token implements live.Observer.
func (m *metrics) Token(*live.Call, bool, time.Duration) {}

// Ended implements live.Observer. Only requests that succeed leave their figures.
func (m *metrics) Ended(c *live.Call) {
	if c.Aborted {
		m.failed("dropped")
		return
	}
	m.of("tgi_request_success").Add(1)
	m.of("tgi_request_duration").Observe((c.LastToken - c.Arrived).Seconds())
	m.of("tgi_request_queue_duration").Observe(c.Queued().Seconds())
	inference := c.LastToken - c.Admitted
	m.of("tgi_request_inference_duration").Observe(inference.Seconds())
	m.of("tgi_request_mean_time_per_token_duration").Observe(inference.Seconds() / float64(max(c.Tokens, 1)))
	m.of("tgi_request_generated_tokens").Observe(float64(c.Tokens))
}

// Stepped implements live.Observer.
func (m *metrics) Stepped(s *des.Step, st des.Stats, _ int) {
	method := "decode"
	if s.Shape.PromptTokens() > 0 {
		method = "prefill"
	}
	seconds := s.Duration.Seconds()
	m.of("tgi_batch_inference_count", "method", method).Add(1)
	m.of("tgi_batch_inference_success", "method", method).Add(1)
	m.of("tgi_batch_inference_duration", "method", method).Observe(seconds)
	m.of("tgi_batch_forward_duration", "method", method).Observe(.95 * seconds)
	m.of("tgi_batch_decode_duration", "method", method).Observe(.02 * seconds)
	m.of("tgi_batch_filter_duration", "method", method).Observe(.001 * seconds)
	if n := len(s.Admitted); n > 0 {
		m.of("tgi_batch_next_size").Observe(float64(n))
		if s.Shape.Decoding > 0 {
			m.of("tgi_batch_concat", "reason", "chunking").Add(1)
			m.of("tgi_batch_concat_duration", "method", "decode").Observe(.0002)
		}
	}
	m.skipped().ObserveN(0, len(s.Tokens))
	m.refresh(st)
}

func (m *metrics) refresh(st des.Stats) {
	m.of("tgi_queue_size").Set(float64(st.Waiting))
	m.of("tgi_batch_current_size").Set(float64(st.Running))
	m.of("tgi_batch_current_max_tokens").Set(float64(st.KVUsed))
}

func (m *metrics) serve(e *live.Engine) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if st := e.Stats(); st.Steps > 0 {
			m.refresh(st)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		m.reg.WriteTo(w)
	}
}
