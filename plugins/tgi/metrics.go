package main

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// signals maps our names to TGI's series, which have kept their names since 1.4 and appear on the
// page with their first event. They have no labels but those of reasons and methods: one router
// answers for all shards. TGI exports no time to first token, no prefix-cache hits and no preemptions
// (it reserves all tokens of a request when it takes it in).
var signals = appear(engine.AfterFirstRequest, []*engine.Signal{
	gauge("requests_running", "tgi_batch_current_size"),
	gauge("requests_waiting", "tgi_queue_size"),
	// Reserved tokens, prompt and longest answer, not the tokens that are there.
	since("2.4", dividedBy("tgi_batch_max_total_tokens", gauge("kv_usage", "tgi_batch_current_max_tokens"))),
	gauge("kv_used_tokens", "tgi_batch_current_max_tokens"),
	since("2.4", gauge("kv_capacity_tokens", "tgi_batch_max_total_tokens")), // not in all builds

	atEnd(counter("requests_finished", "tgi_request_success")),
	// Refusals of faulty requests (validation, template) are no failures of the engine.
	failure("requests_failed", "overloaded|generation|incomplete"),
	failure("requests_rejected", "overloaded"),
	failure("requests_aborted", "dropped"),
	part(histogram("prompt_tokens", "tgi_request_input_length"), engine.SumPart),
	part(atEnd(histogram("generation_tokens", "tgi_request_generated_tokens")), engine.SumPart),
	counter("iterations", "tgi_batch_inference_count"),
	// Of batch steps and not of requests.
	match(part(histogram("prefill_step_seconds", "tgi_batch_inference_duration"), engine.SumPart), "method", "prefill"),
	match(part(histogram("decode_step_seconds", "tgi_batch_inference_duration"), engine.SumPart), "method", "decode"),
	match(part(histogram("decode_steps", "tgi_batch_inference_duration"), engine.CountPart), "method", "decode"),
	part(histogram("spec_accepted_tokens", "tgi_request_skipped_tokens"), engine.SumPart), // a summary

	atEnd(histogram("tpot_seconds", "tgi_request_mean_time_per_token_duration")),
	atEnd(histogram("e2e_seconds", "tgi_request_duration")),
	atEnd(histogram("queue_seconds", "tgi_request_queue_duration")),
	histogram("validation_seconds", "tgi_request_validation_duration"),
	atEnd(histogram("inference_seconds", "tgi_request_inference_duration")),
	histogram("prompt_length_tokens", "tgi_request_input_length"),
	atEnd(histogram("output_length_tokens", "tgi_request_generated_tokens")),
})

// appear sets when series come on the page, where nothing else is said.
func appear(when enginev1.Appearance, all []*engine.Signal) []*engine.Signal {
	for _, s := range all {
		if s.GetAppears() == 0 {
			s.Appears = when
		}
	}
	return all
}

func failure(signal, reasons string) *engine.Signal {
	s := match(counter(signal, "tgi_request_failure"), "err", reasons)
	s.Appears = engine.AfterFirstEvent
	return s
}

// since names the first release with a series.
func since(release string, s *engine.Signal) *engine.Signal {
	s.Since = release
	return s
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
