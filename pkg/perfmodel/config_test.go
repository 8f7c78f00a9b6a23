package perfmodel

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestModelFromConfig reads the fields that published checkpoints carry and expects the table's shapes.
func TestModelFromConfig(t *testing.T) {
	cases := map[string]string{
		"llama-3.1-8b": `{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
			"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}`,
		"opt-1.3b": `{"architectures": ["OPTForCausalLM"], "num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 32,
			"ffn_dim": 8192, "vocab_size": 50272, "tie_word_embeddings": true, "max_position_embeddings": 2048}`,
		"qwen3-30b-a3b": `{"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
			"num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
			"num_experts_per_tok": 8, "vocab_size": 151936, "max_position_embeddings": 40960}`,
		"deepseek-v3": `{"architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
			"num_key_value_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
			"num_experts_per_tok": 8, "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
			"qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280, "quantization_config": {"quant_method": "fp8"}, "max_position_embeddings": 163840}`,
	}
	tables := builtin(t)
	for name, doc := range cases {
		got, err := ModelFromConfig([]byte(doc))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := tables.Models[name]
		want.Match = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-table +config):\n%s", name, diff)
		}
	}
}

func TestModelFromConfigSlidingWindow(t *testing.T) {
	m, err := ModelFromConfig([]byte(`{"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 10,
		"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 128}`))
	if err != nil {
		t.Fatal(err)
	}
	if m.WindowLayers != 1 || m.Window != 128 || m.windowed(1128) != 628 {
		t.Errorf("%+v reads %.0f of 1128 tokens, want 628", m, m.windowed(1128))
	}
}

func TestModelFromConfigRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		doc  string
		want error
		text string
	}{
		"not JSON":             {"{", ErrConfig, ""},
		"too little":           {`{"hidden_size": 64}`, ErrMissing, "layers"},
		"unknown quantization": {`{"quantization_config": {"quant_method": "magic"}}`, ErrConfig, "magic"},
	} {
		if _, err := ModelFromConfig([]byte(c.doc)); !errors.Is(err, c.want) || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzModelFromConfig(f *testing.F) {
	f.Add([]byte(`{"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 14336, "vocab_size": 128256}`))
	f.Add([]byte(`{"kv_lora_rank": 512, "num_experts": -1}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		if m, err := ModelFromConfig(doc); err == nil && len(m.missing()) > 0 {
			t.Errorf("accepted without %v", m.missing())
		}
	})
}
