package main

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// signals maps our names to TGI's series, which have kept their names since 1.4 and appear on the
// page with their first event. TGI exports no time to first token, no prefix-cache hits and no
// preemptions (it reserves all tokens of a request when it takes it in); its prefill and decode
// times are of batch steps and not of requests. They are left out.
var signals = []*engine.Signal{
	gauge("requests_running", "tgi_batch_current_size"),
	gauge("requests_waiting", "tgi_queue_size"),
	// Reserved tokens, prompt and longest answer, not the tokens that are there.
	dividedBy("tgi_batch_max_total_tokens", gauge("kv_usage", "tgi_batch_current_max_tokens")),
	gauge("kv_capacity_tokens", "tgi_batch_max_total_tokens"), // ≥ 2.4, and not in all builds

	atEnd(counter("requests_finished", "tgi_request_success")),
	// Refusals of faulty requests (validation, template) are no failures of the engine.
	match(counter("requests_failed", "tgi_request_failure"), "err", "overloaded|generation|incomplete"),
	match(counter("requests_aborted", "tgi_request_failure"), "err", "dropped"),
	part(histogram("prompt_tokens", "tgi_request_input_length"), engine.SumPart),
	part(atEnd(histogram("generation_tokens", "tgi_request_generated_tokens")), engine.SumPart),
	counter("iterations", "tgi_batch_inference_count"),

	atEnd(histogram("tpot_seconds", "tgi_request_mean_time_per_token_duration")),
	atEnd(histogram("e2e_seconds", "tgi_request_duration")),
	atEnd(histogram("queue_seconds", "tgi_request_queue_duration")),
}

func gauge(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.Gauge}
}

func counter(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.Counter}
}

func histogram(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.HistogramSeries}
}

func dividedBy(series string, s *engine.Signal) *engine.Signal {
	s.DivideBy = series
	return s
}

func part(s *engine.Signal, p seriesPart) *engine.Signal {
	s.Part = p
	return s
}

func match(s *engine.Signal, name, values string) *engine.Signal {
	s.Match = map[string]string{name: values}
	return s
}

// atEnd marks a series that TGI writes when a request ends.
func atEnd(s *engine.Signal) *engine.Signal {
	s.AtEnd = true
	return s
}
