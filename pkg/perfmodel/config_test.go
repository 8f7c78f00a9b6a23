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
		"gpt-oss-20b": `{"architectures": ["GptOssForCausalLM"], "num_hidden_layers": 24, "hidden_size": 2880, "num_attention_heads": 64,
			"num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4,
			"sliding_window": 128, "layer_types": [` + alternating(24) + `], "vocab_size": 201088, "max_position_embeddings": 131072,
			"quantization_config": {"quant_method": "mxfp4"}}`,
		"mixtral-8x7b": `{"architectures": ["MixtralForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
			"num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": null,
			"vocab_size": 32000, "max_position_embeddings": 32768}`,
		"llama-2-7b": `{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
			"intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096}`,
		"deepseek-v3": `{"architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
			"num_key_value_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
			"num_experts_per_tok": 8, "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
			"qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280, "quantization_config": {"quant_method": "fp8"}, "max_position_embeddings": 163840}`,
	}
	tables := builtin(t)
	for name, doc := range cases {
		got, notes, err := ModelFromConfig([]byte(doc))
		if err != nil || len(notes) > 0 {
			t.Errorf("%s: %v, %v", name, notes, err)
			continue
		}
		want := tables.Models[name]
		want.Match = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-table +config):\n%s", name, diff)
		}
	}
}

func alternating(layers int) string {
	return strings.TrimSuffix(strings.Repeat(`"sliding_attention", "full_attention", `, layers/2), ", ")
}

// shape is a small gated transformer with further fields.
func shape(more string) string {
	return `{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 12, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 10, ` + more + `}`
}

// TestModelFromConfigVariants reads what families say in their own ways.
func TestModelFromConfigVariants(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		got       func(Model) any
		want      any
	}{
		{"half the layers slide", `{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 10,
			"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 128}`, func(m Model) any { return m.windowed(1128) }, 628.},
		{"all layers slide", shape(`"sliding_window": 4096`), func(m Model) any { return [2]int{m.WindowLayers, m.Window} }, [2]int{12, 4096}},
		{"the window is off", shape(`"sliding_window": 4096, "use_sliding_window": false`), func(m Model) any { return m.WindowLayers }, 0},
		{"every sixth layer is full", shape(`"sliding_window": 512, "sliding_window_pattern": 6`), func(m Model) any { return m.WindowLayers }, 10},
		{"chunks of attention", shape(`"layer_types": ["chunked_attention"], "attention_chunk_size": 8192`), func(m Model) any { return [2]int{m.WindowLayers, m.Window} }, [2]int{1, 8192}},
		{"text part of a model that sees", `{"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"hidden_size": 7}, "text_config": ` +
			shape(`"head_dim": 32, "num_key_value_heads": 2`) + `}`, func(m Model) any { return [3]int{m.Layers, m.HeadDim, m.KVHeads} }, [3]int{12, 32, 2}},
		{"language part under its other name", `{"llm_config": ` + shape(`"num_key_value_heads": 1`) + `}`, func(m Model) any { return m.KVHeads }, 1},
		{
			"GPT-2's own names", `{"architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257}`,
			func(m Model) any { return [3]any{m.FFN, m.FFNMatrices, m.TiedHead} },
			[3]any{3072, 2, true},
		},
		{
			"one shared head of keys", `{"architectures": ["FalconForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71, "multi_query": true, "vocab_size": 65024}`,
			func(m Model) any { return m.KVHeads }, 1,
		},
		{
			"queries without a rank", shape(`"kv_lora_rank": 16, "q_lora_rank": null, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8`),
			func(m Model) any { return m.attentionPerLayer() }, 64.*4*12 + 64*20 + 16*4*16 + 4*8*64,
		},
		{"experts in every second layer", shape(`"num_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2`), func(m Model) any { return [2]int{m.DenseLayers, m.DenseFFN} }, [2]int{6, 128}},
		{"listed dense layers", shape(`"num_experts": 4, "num_experts_per_tok": 1, "mlp_only_layers": [0, 3]`), func(m Model) any { return m.DenseLayers }, 2},
		{
			"a shared expert eight times as wide", shape(`"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 128`),
			func(m Model) any { return [2]int{m.FFN, m.SharedExperts} },
			[2]int{16, 8},
		},
		{"awq", shape(`"quantization_config": {"quant_method": "awq", "bits": 4}`), func(m Model) any { return m.Native }, INT4},
		{"gptq of eight bits", shape(`"quantization_config": {"quant_method": "gptq", "bits": 8}`), func(m Model) any { return m.Native }, INT8},
		{"modelopt", shape(`"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}`), func(m Model) any { return m.Native }, NVFP4},
		{
			"compressed tensors in fp8", shape(`"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}`),
			func(m Model) any { return m.Native }, FP8,
		},
		{
			"compressed tensors in int4", shape(`"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}`),
			func(m Model) any { return m.Native }, INT4,
		},
		{"bitsandbytes", shape(`"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}`), func(m Model) any { return m.Native }, INT4},
	} {
		m, notes, err := ModelFromConfig([]byte(c.doc))
		if err != nil || len(notes) > 0 {
			t.Errorf("%s: %v, %v", c.name, notes, err)
		} else if diff := cmp.Diff(c.want, c.got(m)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestModelFromConfigUnchecked: a family nobody checked is read by its fields, and says so.
func TestModelFromConfigUnchecked(t *testing.T) {
	doc := strings.Replace(shape(`"num_key_value_heads": 2`), "LlamaForCausalLM", "NovelForCausalLM", 1)
	m, notes, err := ModelFromConfig([]byte(doc))
	if err != nil || m.Layers != 12 || len(notes) != 1 || !strings.Contains(notes[0], "NovelForCausalLM") {
		t.Errorf("%+v, %v, %v", m, notes, err)
	}
}

func TestModelFromConfigRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		doc  string
		want error
		text string
	}{
		"not JSON":               {"{", ErrConfig, ""},
		"too little":             {`{"hidden_size": 64}`, ErrMissing, "layers"},
		"too little, named":      {`{"architectures": ["NovelForCausalLM"], "hidden_size": 64}`, ErrConfig, "NovelForCausalLM"},
		"broken text part":       {`{"text_config": 7}`, ErrConfig, "text_config"},
		"unknown quantization":   {shape(`"quantization_config": {"quant_method": "magic"}`), ErrConfig, "magic"},
		"unknown modelopt":       {shape(`"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP2"}`), ErrConfig, "FP2"},
		"groups without a width": {shape(`"quantization_config": {"quant_method": "compressed-tensors"}`), ErrConfig, "compressed-tensors"},
		"linear attention":       {shape(`"layer_types": ["linear_attention"]`), ErrArchitecture, "linear_attention"},
		"a state":                {`{"architectures": ["MambaForCausalLM"]}`, ErrArchitecture, "state"},
		"an encoder":             {`{"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": true}`, ErrArchitecture, "encoder"},
		"a window of no width":   {shape(`"layer_types": ["sliding_attention"]`), ErrMissing, "window"},
	} {
		if _, _, err := ModelFromConfig([]byte(c.doc)); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzModelFromConfig(f *testing.F) {
	f.Add([]byte(`{"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 14336, "vocab_size": 128256}`))
	f.Add([]byte(`{"kv_lora_rank": 512, "num_experts": -1}`))
	f.Add([]byte(shape(`"num_experts": 4, "num_experts_per_tok": 1, "decoder_sparse_step": 99, "text_config": {"num_hidden_layers": 3}`)))
	f.Add([]byte(shape(`"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"a": {}}}`)))
	f.Fuzz(func(t *testing.T, doc []byte) {
		m, _, err := ModelFromConfig(doc)
		if err == nil && len(m.missing()) > 0 {
			t.Errorf("accepted without %v", m.missing())
		}
		if err == nil && (m.DenseLayers > m.Layers || m.WindowLayers < 0) {
			t.Errorf("accepted %+v", m)
		}
	})
}
