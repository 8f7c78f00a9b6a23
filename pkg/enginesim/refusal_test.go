package enginesim

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

func TestRefusals(t *testing.T) {
	cases := []struct {
		name, dialect string
		sim           []string
		flags         []string
		code          int
		words         string
	}{
		{"unknown flag", "vllm", nil, []string{"--nonsense"}, 2, "vllm serve: error: unrecognized arguments: --nonsense\n"},
		{"not a number", "vllm", nil, []string{"--max-num-seqs", "many"}, 2, "argument --max-num-seqs: invalid human_readable_int value: 'many'"},
		{"missing value", "vllm", nil, []string{"--max-num-seqs"}, 2, "argument --max-num-seqs: expected one argument"},
		{"bad choice", "vllm", nil, []string{"--kv-cache-dtype", "int3"}, 2, "invalid choice: 'int3' (choose from 'auto'"},
		{"budget below seqs", "vllm", nil, []string{"--max-num-batched-tokens", "16", "--max-num-seqs", "32"}, 1, "max_num_batched_tokens (16) must be greater than or equal to max_num_seqs (32)"},
		{"no seqs", "vllm", nil, []string{"--max-num-seqs", "0"}, 1, "Input should be greater than or equal to 1"},
		{"too long", "vllm", nil, []string{"--max-model-len", "999999"}, 1, "User-specified max_model_len (999999) is greater than the derived max_model_len"},
		{"fraction above 1", "vllm", nil, []string{"--gpu-memory-utilization", "1.2"}, 1, "Input should be less than or equal to 1"},
		{"fraction of 0", "vllm", nil, []string{"--gpu-memory-utilization=0"}, 1, "Input should be greater than 0"},
		{"no room for weights", "vllm", nil, []string{"--gpu-memory-utilization", "0.1"}, 1, "No available memory for the cache blocks"},
		{"cache below one request", "vllm", nil, []string{"--gpu-memory-utilization", "0.3"}, 1, "the estimated maximum model length is"},
		{"heads not divisible", "vllm", nil, []string{"-tp", "3"}, 1, "Total number of attention heads (32) must be divisible by tensor parallel size (3)"},
		{"too few GPUs", "vllm", []string{"--sim-gpus", "2"}, []string{"--tensor-parallel-size", "4"}, 1, "World size (4) is larger than the number of available GPUs (2)"},
		{"unchunked budget", "vllm", nil, []string{"--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"}, 1, "max_num_batched_tokens (4096) is smaller than max_model_len (131072)"},

		{"unknown flag", "sglang", nil, []string{"--nonsense"}, 2, "launch_server.py: error: unrecognized arguments: --nonsense\n"},
		{"no running requests", "sglang", nil, []string{"--max-running-requests", "0"}, 1, "max_running_request is zero"},
		{"fraction too low", "sglang", nil, []string{"--mem-fraction-static", "0.1"}, 1, "Please try to increase --mem-fraction-static"},
		{"fraction too high", "sglang", nil, []string{"--mem-fraction-static", "0.99"}, 1, "set --mem-fraction-static to a smaller value"},
		{"page does not divide chunk", "sglang", nil, []string{"--page-size", "48", "--chunked-prefill-size", "1000"}, 1, "chunked_prefill_size must be divisible by page_size"},
		{"policy unknown", "sglang", nil, []string{"--schedule-policy", "best"}, 2, "argument --schedule-policy: invalid choice: 'best'"},
		{"context too long", "sglang", nil, []string{"--context-length", "999999"}, 1, "User-specified context_length (999999) is greater"},
		{"heads not divisible", "sglang", nil, []string{"--tp-size", "3"}, 1, "must be divisible by tp_size (3)"},

		{"unknown flag", "tgi", nil, []string{"--nonsense"}, 2, "error: unexpected argument '--nonsense' found"},
		{"not a number", "tgi", nil, []string{"--max-batch-size", "big"}, 2, "error: invalid value 'big' for '--max-batch-size <MAX_BATCH_SIZE>': invalid digit found in string"},
		{"input above total", "tgi", nil, []string{"--max-input-tokens", "200", "--max-total-tokens", "100"}, 1, "`max_input_tokens` must be < `max_total_tokens`"},
		{"two names", "tgi", nil, []string{"--max-input-tokens", "100", "--max-input-length", "100"}, 1, "Please define only `max_input_tokens`"},
		{"no workers", "tgi", nil, []string{"--validation-workers", "0"}, 1, "`validation_workers` must be > 0"},
		{"sharded alone", "tgi", nil, []string{"--sharded", "true"}, 1, "`sharded` is true"},
		{"too few GPUs", "tgi", nil, []string{"--num-shard", "16"}, 1, "NotEnoughCUDADevices"},
		{"cache below total", "tgi", nil, []string{"--cuda-memory-fraction", "0.3", "--max-total-tokens", "131072"}, 1, "not enough memory for one request"},

		{"dialect unknown", "llama", nil, nil, 2, "want vllm, sglang or tgi"},
		{"gpu unknown", "vllm", []string{"--sim-gpu", "abacus"}, nil, 2, `--sim-gpu: GPU "abacus"`},
		{"fault unknown", "tgi", []string{"--sim-fault", "flood@3"}, nil, 2, `fault "flood@3": unknown kind`},
	}
	for _, c := range cases {
		t.Run(c.dialect+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			args := append([]string{"--dialect", c.dialect, "--sim-start-scale", "0"}, c.sim...)
			args = append(append(args, "--"), command(c.dialect, "1", c.flags...)...)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if code := Main(ctx, args, &out, &out); code != c.code || !strings.Contains(out.String(), c.words) {
				t.Errorf("exit code %d, want %d with %q; output:\n%s", code, c.code, c.words, &out)
			}
		})
	}
}

func TestPortTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for dialect, words := range map[string]string{
		"vllm": "OSError: [Errno 98] Address already in use", "sglang": "address already in use", "tgi": "Error: WebserverFailed",
	} {
		t.Run(dialect, func(t *testing.T) {
			var out bytes.Buffer
			args := append([]string{"--dialect", dialect, "--sim-start-scale", "0", "--"}, command(dialect, port)...)
			if code := Main(t.Context(), args, &out, &out); code != 1 || !strings.Contains(out.String(), words) {
				t.Errorf("exit code %d; output:\n%s", code, &out)
			}
		})
	}
}
