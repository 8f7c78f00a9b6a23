package perfmodel

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrConfig means a config.json does not describe a model the formulas know.
var ErrConfig = errors.New("not a usable config.json")

// hfConfig is the part of a checkpoint's config.json that the shape needs. Families name the same thing
// differently, hence the alternatives.
type hfConfig struct {
	Architectures []string `json:"architectures"`
	Layers        int      `json:"num_hidden_layers"`
	Hidden        int      `json:"hidden_size"`
	Heads         int      `json:"num_attention_heads"`
	KVHeads       int      `json:"num_key_value_heads"`
	HeadDim       int      `json:"head_dim"`
	FFN           int      `json:"intermediate_size"`
	FFNAlt        int      `json:"ffn_dim"`
	Vocab         int      `json:"vocab_size"`
	Tied          bool     `json:"tie_word_embeddings"`
	MaxPositions  int      `json:"max_position_embeddings"`

	ExpertsA    int      `json:"num_experts"`
	ExpertsB    int      `json:"num_local_experts"`
	ExpertsC    int      `json:"n_routed_experts"`
	TopK        int      `json:"num_experts_per_tok"`
	Shared      int      `json:"n_shared_experts"`
	ExpertFFN   int      `json:"moe_intermediate_size"`
	DenseLayers int      `json:"first_k_dense_replace"`
	LayerTypes  []string `json:"layer_types"`
	Window      int      `json:"sliding_window"`

	QueryRank int `json:"q_lora_rank"`
	KVRank    int `json:"kv_lora_rank"`
	Nope      int `json:"qk_nope_head_dim"`
	Rope      int `json:"qk_rope_head_dim"`
	Value     int `json:"v_head_dim"`

	Quantization struct {
		Method string `json:"quant_method"`
	} `json:"quantization_config"`
}

// ModelFromConfig reads the shape of a model from its checkpoint's config.json. The error wraps ErrConfig
// if the document is broken and ErrMissing, naming table fields, if it says too little.
func ModelFromConfig(doc []byte) (Model, error) {
	var c hfConfig
	if err := json.Unmarshal(doc, &c); err != nil {
		return Model{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	m := Model{
		Layers: c.Layers, Hidden: c.Hidden, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim,
		FFN: max(c.FFN, c.FFNAlt), Vocab: c.Vocab, TiedHead: c.Tied, MaxModelLen: c.MaxPositions,
		FFNMatrices: ffnMatrices(c.Architectures),
	}
	c.attention(&m)
	c.experts(&m)
	native, err := ParsePrecision(c.Quantization.Method)
	if err != nil {
		return Model{}, fmt.Errorf("%w: quantization %q; describe the model in the table override, with its format as native", ErrConfig, c.Quantization.Method)
	}
	m.Native = native
	if names := m.missing(); len(names) > 0 {
		return Model{}, fmt.Errorf("%w: %w: %s", ErrConfig, ErrMissing, strings.Join(names, ", "))
	}
	return m, nil
}

func (c hfConfig) attention(m *Model) {
	if c.KVRank > 0 {
		m.KVHeads, m.HeadDim = 0, 0
		m.MLA = &MLA{QueryRank: c.QueryRank, KVRank: c.KVRank, NopeDim: c.Nope, RopeDim: c.Rope, ValueDim: c.Value}
		return
	}
	if m.KVHeads == 0 {
		m.KVHeads = m.Heads // older configurations know multi-head attention only
	}
	if m.HeadDim == 0 && m.Heads > 0 {
		m.HeadDim = m.Hidden / m.Heads
	}
	for _, kind := range c.LayerTypes {
		if kind == "sliding_attention" {
			m.WindowLayers++
		}
	}
	if m.WindowLayers > 0 {
		m.Window = c.Window
	}
}

func (c hfConfig) experts(m *Model) {
	m.Experts = max(c.ExpertsA, c.ExpertsB, c.ExpertsC)
	if m.Experts <= 1 {
		m.Experts = 0
		return
	}
	m.ExpertsPerToken, m.SharedExperts = c.TopK, c.Shared
	if c.DenseLayers > 0 {
		m.DenseLayers, m.DenseFFN = c.DenseLayers, c.FFN
	}
	if c.ExpertFFN > 0 {
		m.FFN = c.ExpertFFN
	}
}

// ffnMatrices is 2 for the families whose feed-forward part has no gate, 0 for the default.
func ffnMatrices(architectures []string) int {
	ungated := []string{"OPTForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "GPTJForCausalLM", "BloomForCausalLM", "FalconForCausalLM", "PhiForCausalLM"}
	for _, a := range architectures {
		if slices.Contains(ungated, a) {
			return 2
		}
	}
	return 0
}
