package perfmodel

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	// ErrConfig means a config.json does not describe a model the formulas know.
	ErrConfig = errors.New("not a usable config.json")
	// ErrArchitecture means that the formulas do not hold for this kind of model; the text says which
	// part they lack.
	ErrArchitecture = errors.New("no formulas for this architecture")
)

// hfConfig is the part of a checkpoint's config.json that the shape needs. Families name the same thing
// differently, hence the alternatives: the first that is set counts.
type hfConfig struct {
	Architectures  []string `json:"architectures"`
	ModelType      string   `json:"model_type"`
	EncoderDecoder bool     `json:"is_encoder_decoder"`

	Layers       int   `json:"num_hidden_layers"`
	LayersB      int   `json:"n_layer"`
	LayersC      int   `json:"n_layers"`
	Hidden       int   `json:"hidden_size"`
	HiddenB      int   `json:"n_embd"`
	HiddenC      int   `json:"d_model"`
	Heads        int   `json:"num_attention_heads"`
	HeadsB       int   `json:"n_head"`
	HeadsC       int   `json:"n_heads"`
	KVHeads      int   `json:"num_key_value_heads"`
	KVHeadsB     int   `json:"num_kv_heads"`
	MultiQuery   bool  `json:"multi_query"`
	NewDecoder   bool  `json:"new_decoder_architecture"` // Falcon: num_kv_heads counts despite multi_query
	HeadDim      int   `json:"head_dim"`
	FFN          int   `json:"intermediate_size"`
	FFNB         int   `json:"ffn_dim"`
	FFNC         int   `json:"ffn_hidden_size"`
	FFND         int   `json:"n_inner"`
	Vocab        int   `json:"vocab_size"`
	Tied         *bool `json:"tie_word_embeddings"`
	MaxPositions int   `json:"max_position_embeddings"`

	ExpertsA         int   `json:"num_experts"`
	ExpertsB         int   `json:"num_local_experts"`
	ExpertsC         int   `json:"n_routed_experts"`
	TopK             int   `json:"num_experts_per_tok"`
	TopKB            int   `json:"experts_per_token"`
	Shared           int   `json:"n_shared_experts"`
	SharedFFN        int   `json:"shared_expert_intermediate_size"`
	ExpertFFN        int   `json:"moe_intermediate_size"`
	DenseLayers      int   `json:"first_k_dense_replace"`
	DenseLayerList   []int `json:"mlp_only_layers"`
	SparseStep       int   `json:"decoder_sparse_step"`
	ExpertLayerEvery int   `json:"interleave_moe_layer_step"`

	LayerTypes    []string `json:"layer_types"`
	Window        int      `json:"sliding_window"`
	WindowOff     *bool    `json:"use_sliding_window"`
	WindowPattern int      `json:"sliding_window_pattern"` // every n-th layer sees all tokens
	AttentionSpan int      `json:"attention_chunk_size"`   // a window in chunks

	QueryRank int `json:"q_lora_rank"`
	KVRank    int `json:"kv_lora_rank"`
	Nope      int `json:"qk_nope_head_dim"`
	Rope      int `json:"qk_rope_head_dim"`
	Value     int `json:"v_head_dim"`

	Quantization hfQuantization `json:"quantization_config"`

	Text     json.RawMessage `json:"text_config"`
	Language json.RawMessage `json:"llm_config"`
}

// ModelFromConfig reads the shape of a model from its checkpoint's config.json: dense grouped-query,
// mixture of experts, multi-head latent attention, sliding windows, and the text part of models that see
// or hear. Notes say what was assumed. The error wraps ErrConfig if the document is broken, ErrMissing,
// naming table fields, if it says too little, and ErrArchitecture if the formulas do not hold.
func ModelFromConfig(doc []byte) (m Model, notes []string, err error) {
	c, err := parseConfig(doc)
	if err != nil {
		return Model{}, nil, err
	}
	if err := c.supported(); err != nil {
		return Model{}, nil, err
	}
	m = Model{
		Layers: first(c.Layers, c.LayersB, c.LayersC), Hidden: first(c.Hidden, c.HiddenB, c.HiddenC), Heads: first(c.Heads, c.HeadsB, c.HeadsC),
		FFN: first(c.FFN, c.FFNB, c.FFNC, c.FFND), Vocab: c.Vocab, TiedHead: c.tied(), MaxModelLen: c.MaxPositions,
	}
	if c.of(ungated) {
		m.FFNMatrices = 2
		m.FFN = first(m.FFN, 4*m.Hidden) // what these families leave out
	}
	c.attention(&m)
	c.windows(&m)
	c.experts(&m)
	if m.Native, err = c.Quantization.precision(); err != nil {
		return Model{}, nil, err
	}
	if names := m.missing(); len(names) > 0 {
		return Model{}, nil, fmt.Errorf("%w of %s: %w: %s; describe it in the table override", ErrConfig, c.name(), ErrMissing, strings.Join(names, ", "))
	}
	if !c.of(knownTypes) {
		notes = append(notes, fmt.Sprintf("architecture %s is not one that was checked: read by the names of its fields, as a gated transformer", c.name()))
	}
	return m, notes, nil
}

// parseConfig decodes the document, and over it the part that describes the language model of one that
// has several.
func parseConfig(doc []byte) (hfConfig, error) {
	var c hfConfig
	if err := json.Unmarshal(doc, &c); err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	for _, nested := range []json.RawMessage{c.Text, c.Language} {
		if len(nested) == 0 {
			continue
		}
		outer := c.Architectures
		if err := json.Unmarshal(nested, &c); err != nil {
			return c, fmt.Errorf("%w: its text_config: %w", ErrConfig, err)
		}
		if len(c.Architectures) == 0 {
			c.Architectures = outer
		}
	}
	return c, nil
}

// first of the values that is set, 0 if none is.
func first(values ...int) int {
	for _, v := range values {
		if v != 0 {
			return v
		}
	}
	return 0
}

// name of the architecture as the document gives it.
func (c hfConfig) name() string {
	switch {
	case len(c.Architectures) > 0:
		return c.Architectures[0]
	case c.ModelType != "":
		return c.ModelType
	}
	return "an unnamed architecture"
}

// knownTypes are families whose shapes were checked against published parameter counts.
var knownTypes = []string{
	"llama", "mistral", "mixtral", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "deepseekv2", "deepseekv3", "gptoss", "minimaxm2", "opt", "gpt2", "gptneox",
	"gptj", "bloom", "falcon", "phi", "phi3", "gemma", "gemma2", "gemma3", "gemma3text", "glm4", "glm4moe", "kimik2", "cohere", "cohere2", "olmo2", "starcoder2",
}

// of reports whether the model is of one of the families. Architectures carry a task behind the family's
// name: LlamaForCausalLM.
func (c hfConfig) of(families []string) bool {
	for _, a := range c.Architectures {
		family, _, _ := strings.Cut(a, "For")
		family = strings.TrimSuffix(strings.TrimSuffix(family, "LMHeadModel"), "Model")
		if slices.Contains(families, strings.ToLower(family)) {
			return true
		}
	}
	return slices.Contains(families, strings.ReplaceAll(strings.ToLower(c.ModelType), "_", ""))
}

// supported refuses what the formulas would get wrong silently.
func (c hfConfig) supported() error {
	if c.EncoderDecoder {
		return fmt.Errorf("%w: %s has an encoder", ErrArchitecture, c.name())
	}
	for _, kind := range c.LayerTypes {
		if kind != "full_attention" && kind != "sliding_attention" && kind != "attention" && kind != "chunked_attention" {
			return fmt.Errorf("%w: %s has layers of type %s, whose state and time are not modelled", ErrArchitecture, c.name(), kind)
		}
	}
	for _, family := range []string{"mamba", "rwkv", "jamba", "griffin", "zamba", "retnet"} {
		if strings.Contains(strings.ToLower(c.name()+c.ModelType), family) {
			return fmt.Errorf("%w: %s keeps a state in place of a cache of tokens", ErrArchitecture, c.name())
		}
	}
	return nil
}

func (c hfConfig) attention(m *Model) {
	if c.KVRank > 0 {
		m.MLA = &MLA{QueryRank: c.QueryRank, KVRank: c.KVRank, NopeDim: c.Nope, RopeDim: c.Rope, ValueDim: c.Value}
		return
	}
	m.KVHeads, m.HeadDim = first(c.KVHeads, c.KVHeadsB), c.HeadDim
	switch {
	case c.MultiQuery && !c.NewDecoder:
		m.KVHeads = 1
	case m.KVHeads == 0:
		m.KVHeads = m.Heads // older configurations know multi-head attention only
	}
	if m.HeadDim == 0 && m.Heads > 0 {
		m.HeadDim = m.Hidden / m.Heads
	}
}

// windows counts the layers that see only the newest tokens: listed by type, by a pattern, or all of
// them where a window is set and nothing turns it off.
func (c hfConfig) windows(m *Model) {
	for _, kind := range c.LayerTypes {
		if kind == "sliding_attention" || kind == "chunked_attention" {
			m.WindowLayers++
		}
	}
	off := c.WindowOff != nil && !*c.WindowOff
	switch {
	case len(c.LayerTypes) > 0 || c.Window <= 0 || off:
	case c.WindowPattern > 1:
		m.WindowLayers = m.Layers - m.Layers/c.WindowPattern
	case strings.HasPrefix(c.name(), "Gemma2"):
		m.WindowLayers = (m.Layers + 1) / 2 // every second, without saying so
	default:
		m.WindowLayers = m.Layers
	}
	if m.WindowLayers > 0 {
		m.Window = first(c.Window, c.AttentionSpan)
	}
}

func (c hfConfig) experts(m *Model) {
	m.Experts = first(c.ExpertsA, c.ExpertsB, c.ExpertsC)
	if m.Experts <= 1 {
		m.Experts = 0
		return
	}
	m.ExpertsPerToken, m.SharedExperts = first(c.TopK, c.TopKB), c.Shared
	if n := c.denseLayers(m.Layers); n > 0 {
		m.DenseLayers, m.DenseFFN = n, m.FFN
	}
	if c.ExpertFFN > 0 {
		m.FFN = c.ExpertFFN
	}
	if c.SharedFFN > 0 && m.FFN > 0 && m.SharedExperts == 0 {
		m.SharedExperts = (c.SharedFFN + m.FFN - 1) / m.FFN // one wide expert, counted as several of the usual width
	}
}

// denseLayers is how many layers have no experts.
func (c hfConfig) denseLayers(layers int) int {
	step := max(c.SparseStep, c.ExpertLayerEvery)
	switch {
	case c.DenseLayers > 0:
		return min(c.DenseLayers, layers)
	case len(c.DenseLayerList) > 0:
		return min(len(c.DenseLayerList), layers)
	case step > 1:
		return layers - layers/step
	}
	return 0
}

var (
	// ungated families have a feed-forward part of two matrices.
	ungated = []string{"opt", "gpt2", "gptneox", "gptj", "bloom", "falcon", "phi", "starcoder2"}
	// tiedFamilies share the output head with the input embedding unless they say otherwise.
	tiedFamilies = []string{"opt", "gpt2", "bloom", "falcon", "gemma", "gemma2", "gemma3", "gemma3text", "cohere", "cohere2", "starcoder2"}
)

func (c hfConfig) tied() bool {
	if c.Tied != nil {
		return *c.Tied
	}
	return c.of(tiedFamilies)
}
