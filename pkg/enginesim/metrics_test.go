package enginesim

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// wanted are the families that the engines' own pages have and an adapter may read, by type.
var wanted = map[string]map[dto.MetricType]string{
	"vllm": {
		dto.MetricType_GAUGE: `vllm:num_requests_running vllm:num_requests_waiting vllm:num_requests_waiting_by_reason vllm:kv_cache_usage_perc
			vllm:engine_sleep_state vllm:cache_config_info vllm:prefix_cache_hits_created vllm:e2e_request_latency_seconds_created`,
		dto.MetricType_COUNTER: `vllm:prefix_cache_hits_total vllm:prefix_cache_queries_total vllm:external_prefix_cache_hits_total vllm:mm_cache_hits_total
			vllm:num_preemptions_total vllm:prompt_tokens_total vllm:prompt_tokens_by_source_total vllm:prompt_tokens_cached_total
			vllm:prompt_tokens_cached_by_source_total vllm:generation_tokens_total vllm:request_success_total vllm:admission_rejections_total
			vllm:estimated_flops_per_gpu_total http_requests_total`,
		dto.MetricType_HISTOGRAM: `vllm:time_to_first_token_seconds vllm:inter_token_latency_seconds vllm:request_time_per_output_token_seconds
			vllm:e2e_request_latency_seconds vllm:request_queue_time_seconds vllm:request_inference_time_seconds vllm:request_prefill_time_seconds
			vllm:request_decode_time_seconds vllm:request_prompt_tokens vllm:request_generation_tokens vllm:request_max_num_generation_tokens
			vllm:request_params_max_tokens vllm:request_params_n vllm:request_prefill_kv_computed_tokens vllm:request_num_preemptions
			vllm:iteration_tokens_total http_request_duration_seconds http_request_duration_highr_seconds`,
		dto.MetricType_SUMMARY: `http_request_size_bytes http_response_size_bytes`,
	},
	"sglang": {
		dto.MetricType_GAUGE: `sglang:num_running_reqs sglang:num_queue_reqs sglang:num_grammar_queue_reqs sglang:token_usage sglang:full_token_usage
			sglang:num_used_tokens sglang:kv_used_tokens sglang:kv_available_tokens sglang:max_total_num_tokens sglang:page_size sglang:num_pages
			sglang:context_len sglang:gen_throughput sglang:cache_hit_rate sglang:num_retracted_reqs sglang:new_token_ratio sglang:utilization
			sglang:is_cuda_graph sglang:weight_memory_usage_gb sglang:kv_cache_memory_usage_gb sglang:graph_memory_usage_gb
			sglang:startup_time_seconds sglang:http_requests_active sglang:fwd_occupancy`,
		dto.MetricType_COUNTER: `sglang:prompt_tokens_total sglang:generation_tokens_total sglang:realtime_tokens_total sglang:num_requests_total
			sglang:cuda_graph_passes_total sglang:http_requests_total sglang:http_responses_total sglang:scheduler_idle_seconds_total
			sglang:prefill_effective_tokens_total sglang:cached_tokens_total`,
		dto.MetricType_HISTOGRAM: `sglang:time_to_first_token_seconds sglang:inter_token_latency_seconds sglang:e2e_request_latency_seconds
			sglang:queue_time_seconds sglang:per_stage_req_latency_seconds sglang:request_time_per_output_token_seconds
			sglang:prompt_tokens_histogram sglang:uncached_prompt_tokens_histogram sglang:generation_tokens_histogram`,
	},
	"tgi": {
		dto.MetricType_GAUGE:   `tgi_queue_size tgi_batch_current_size tgi_batch_current_max_tokens`,
		dto.MetricType_COUNTER: `tgi_request_count tgi_request_success tgi_batch_inference_count tgi_batch_inference_success`,
		dto.MetricType_HISTOGRAM: `tgi_request_duration tgi_request_validation_duration tgi_request_queue_duration tgi_request_inference_duration
			tgi_request_mean_time_per_token_duration tgi_request_input_length tgi_request_generated_tokens tgi_request_max_new_tokens
			tgi_batch_next_size tgi_batch_inference_duration tgi_batch_forward_duration tgi_batch_decode_duration tgi_batch_filter_duration`,
		dto.MetricType_SUMMARY: `tgi_request_skipped_tokens`,
	},
}

func parse(t *testing.T, page string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatalf("%v in\n%s", err, page)
	}
	return families
}

func TestMetricsPages(t *testing.T) {
	for dialect, kinds := range wanted {
		t.Run(dialect, func(t *testing.T) {
			p := start(t, dialect)
			for range 2 { // the second one hits the first one's prefix
				if status, _, err := p.stream(t.Context(), "/v1/completions", completion(64, 4, true)); status != http.StatusOK || err != nil {
					t.Fatal(status, err)
				}
			}
			p.post("/v1/completions", completion(8, 4, false))
			_, page := p.get("/metrics")
			families := parse(t, page)
			for kind, names := range kinds {
				for _, name := range strings.Fields(names) {
					if f := families[name]; f == nil {
						t.Errorf("%s is missing", name)
					} else if f.GetType() != kind {
						t.Errorf("%s is a %s, want %s", name, f.GetType(), kind)
					}
				}
			}
		})
	}
}

func TestHistogramsCountWhatTheEngineCounts(t *testing.T) {
	p := start(t, "vllm")
	p.stream(t.Context(), "/v1/completions", completion(64, 6, true))
	p.stream(t.Context(), "/v1/completions", completion(32, 1, true))
	_, page := p.get("/metrics")
	families := parse(t, page)
	got := map[string][2]float64{}
	for _, name := range []string{
		"time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
		"request_time_per_output_token_seconds", "request_prompt_tokens", "iteration_tokens_total",
	} {
		h := families["vllm:"+name].GetMetric()[0].GetHistogram()
		sum := h.GetSampleSum()
		if strings.HasSuffix(name, "seconds") {
			sum = 0 // a matter of timing
		}
		got[name] = [2]float64{float64(h.GetSampleCount()), sum}
	}
	want := map[string][2]float64{
		"time_to_first_token_seconds": {2, 0}, "inter_token_latency_seconds": {5, 0}, "e2e_request_latency_seconds": {2, 0},
		"request_time_per_output_token_seconds": {2, 0}, "request_prompt_tokens": {2, 96}, "iteration_tokens_total": {7, 64 + 32 + 7},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("histograms (count, sum) (-want +got):\n%s", diff)
	}
}

func TestPagesBeforeTheFirstRequest(t *testing.T) {
	p := start(t, "tgi")
	if status, page := p.get("/metrics"); status != http.StatusOK || page != "" {
		t.Errorf("tgi: status %d, page %q; want an empty one", status, page)
	}
	p = start(t, "vllm", "--disable-log-stats")
	_, page := p.get("/metrics")
	for name := range parse(t, page) {
		if strings.HasPrefix(name, "vllm:") {
			t.Errorf("vllm: %s in spite of --disable-log-stats", name)
		}
	}
	p = start(t, "sglang")
	_, page = p.get("/metrics")
	if families := parse(t, page); families["sglang:num_aborted_requests_total"] != nil || families["sglang:num_running_reqs"] == nil {
		t.Errorf("sglang: %v", slices.Sorted(maps.Keys(families)))
	}
}

// TestNothingTellsTheTruth looks for the hidden coefficients on every page that the engine has.
func TestNothingTellsTheTruth(t *testing.T) {
	for dialect, paths := range map[string][]string{
		"vllm": {"/metrics", "/v1/models", "/version", "/load"}, "sglang": {"/metrics", "/server_info", "/model_info", "/v1/loads"}, "tgi": {"/info", "/metrics"},
	} {
		p := start(t, dialect)
		for _, path := range paths {
			_, page := p.get(path)
			for _, word := range []string{"coefficient", "seed", "noise", "efficiency", "sim-"} {
				if strings.Contains(strings.ToLower(page), word) {
					t.Errorf("%s %s says %q", dialect, path, word)
				}
			}
		}
	}
}
