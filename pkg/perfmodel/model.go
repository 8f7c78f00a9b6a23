package perfmodel

import "math"

// Model is the shape of a decoder-only transformer: dense or mixture of experts, grouped-query or
// multi-head latent attention.
type Model struct {
	Match           []string  `yaml:"match"` // parts of the served model's path
	Layers          int       `yaml:"layers"`
	Hidden          int       `yaml:"hidden"`
	Heads           int       `yaml:"heads"`
	KVHeads         int       `yaml:"kv_heads"` // not with MLA
	HeadDim         int       `yaml:"head_dim"` // not with MLA
	FFN             int       `yaml:"ffn"`      // inner width, of one expert
	FFNMatrices     int       `yaml:"ffn_matrices"`
	Experts         int       `yaml:"experts"`
	ExpertsPerToken int       `yaml:"experts_per_token"`
	SharedExperts   int       `yaml:"shared_experts"`
	DenseLayers     int       `yaml:"dense_layers"` // leading layers without experts
	DenseFFN        int       `yaml:"dense_ffn"`    // their inner width
	Vocab           int       `yaml:"vocab"`
	TiedHead        bool      `yaml:"tied_head"` // output head and input embedding share weights
	MLA             *MLA      `yaml:"mla"`
	Window          int       `yaml:"window"`        // tokens seen by sliding-window layers
	WindowLayers    int       `yaml:"window_layers"` // how many layers slide
	Native          Precision `yaml:"native"`        // format of the published checkpoint; bf16 when empty
	MaxModelLen     int       `yaml:"max_model_len"` // longest context in tokens
}

// MLA holds the ranks and widths of multi-head latent attention.
type MLA struct {
	QueryRank int `yaml:"query_rank"` // 0: queries are projected in one step
	KVRank    int `yaml:"kv_rank"`
	NopeDim   int `yaml:"nope_dim"`
	RopeDim   int `yaml:"rope_dim"`
	ValueDim  int `yaml:"value_dim"`
}

func (m Model) missing() []string {
	names := unset(
		field{"layers", float64(m.Layers)}, field{"hidden", float64(m.Hidden)}, field{"heads", float64(m.Heads)},
		field{"ffn", float64(m.FFN)}, field{"vocab", float64(m.Vocab)},
	)
	if m.MLA == nil {
		names = append(names, unset(field{"kv_heads", float64(m.KVHeads)}, field{"head_dim", float64(m.HeadDim)})...)
	} else {
		names = append(names, unset(
			field{"mla.kv_rank", float64(m.MLA.KVRank)},
			field{"mla.nope_dim", float64(m.MLA.NopeDim)}, field{"mla.rope_dim", float64(m.MLA.RopeDim)},
			field{"mla.value_dim", float64(m.MLA.ValueDim)},
		)...)
	}
	if m.Experts > 1 {
		names = append(names, unset(field{"experts_per_token", float64(m.ExpertsPerToken)})...)
	}
	if m.WindowLayers > 0 {
		names = append(names, unset(field{"window", float64(m.Window)})...)
	}
	return names
}

// parts are a model's parameter counts by role.
type parts struct {
	attention float64 // all layers
	dense     float64 // feed-forward of layers without experts
	expert    float64 // one expert in every expert layer
	router    float64
	head      float64
	embedding float64 // 0 when the head doubles as embedding
	norms     float64

	experts, perToken, shared float64
}

func (m Model) parts() parts {
	layers, h := float64(m.Layers), float64(m.Hidden)
	matrices := float64(m.FFNMatrices)
	if matrices == 0 {
		matrices = 3
	}
	p := parts{
		attention: layers * m.attentionPerLayer(),
		head:      float64(m.Vocab) * h,
		norms:     (2*layers + 1) * h,
	}
	if !m.TiedHead {
		p.embedding = p.head
	}
	if m.Experts <= 1 {
		p.dense = matrices * h * float64(m.FFN) * layers
		return p
	}
	moe := layers - float64(m.DenseLayers)
	p.dense = matrices * h * float64(m.DenseFFN) * float64(m.DenseLayers)
	p.expert = matrices * h * float64(m.FFN) * moe
	p.router = h * float64(m.Experts) * moe
	p.experts, p.perToken, p.shared = float64(m.Experts), float64(m.ExpertsPerToken), float64(m.SharedExperts)
	return p
}

func (m Model) attentionPerLayer() float64 {
	h, n := float64(m.Hidden), float64(m.Heads)
	if a := m.MLA; a != nil {
		q, c := float64(a.QueryRank), float64(a.KVRank)
		nope, rope, v := float64(a.NopeDim), float64(a.RopeDim), float64(a.ValueDim)
		query := h*q + q*n*(nope+rope)
		if q == 0 {
			query = h * n * (nope + rope) // small models project queries in one step
		}
		return query + h*(c+rope) + c*n*(nope+v) + n*v*h
	}
	return 2*h*n*float64(m.HeadDim) + 2*h*float64(m.KVHeads)*float64(m.HeadDim)
}

// ParamCount is the number of parameters.
func (m Model) ParamCount() float64 {
	p := m.parts()
	return p.attention + p.dense + p.expert*(p.experts+p.shared) + p.router + p.norms + p.head + p.embedding
}

// ActiveParams is the number of parameters one token uses: attention, its experts and the output head.
func (m Model) ActiveParams() float64 {
	p := m.parts()
	return p.active() + p.head
}

// active leaves the head out, which runs only for tokens that are sampled.
func (p parts) active() float64 { return p.attention + p.dense + p.expert*(p.perToken+p.shared) }

// WeightBytes is the size of the weights in memory. Embedding and head stay at two bytes in quantised
// checkpoints, and with MXFP4 the attention does too.
func (m Model) WeightBytes(w Precision) float64 {
	p := m.parts()
	b := bytesPerWeight[m.precision(w)]
	return p.attention*m.attentionBytes(w) + (p.dense+p.expert*(p.experts+p.shared))*b + 2*(p.router+p.norms+p.head+p.embedding)
}

// precision resolves the empty format to the checkpoint's own.
func (m Model) precision(w Precision) Precision {
	switch {
	case w != "":
		return w
	case m.Native != "":
		return m.Native
	}
	return BF16
}

func (m Model) attentionBytes(w Precision) float64 {
	if w = m.precision(w); w != MXFP4 {
		return bytesPerWeight[w]
	}
	return bytesPerWeight[BF16]
}

// expertsTouched is how many of the experts T tokens reach together when routing is even.
func (p parts) expertsTouched(tokens float64) float64 {
	if p.experts == 0 {
		return 0
	}
	return p.experts * (1 - math.Pow(1-p.perToken/p.experts, tokens))
}

// KVBytesPerToken is the KV cache of one token over all layers and heads, in bytes. With MLA every
// tensor-parallel rank holds that much.
func (m Model) KVBytesPerToken(kv Precision) float64 {
	b, ok := bytesPerKV[kv]
	if !ok {
		b = 2 // New refuses it
	}
	if m.MLA != nil {
		return float64(m.MLA.KVRank+m.MLA.RopeDim) * b * float64(m.Layers)
	}
	return 2 * float64(m.KVHeads*m.HeadDim) * b * float64(m.Layers)
}

// kvShare is the part of the KV bytes that one of t tensor-parallel ranks holds.
func (m Model) kvShare(t int) float64 {
	if m.MLA != nil {
		return 1
	}
	return 1 / float64(min(t, m.KVHeads))
}

// attentionWidth is n_q times the width that scores and values are computed over, for prefill.
func (m Model) attentionWidth() float64 {
	if a := m.MLA; a != nil {
		return float64(m.Heads) * float64(a.NopeDim+a.RopeDim+a.ValueDim) / 2
	}
	return float64(m.Heads * m.HeadDim)
}

// windowed is the mean over layers of the context that a step reads, for a context of c tokens.
func (m Model) windowed(c float64) float64 {
	if m.WindowLayers == 0 || m.Layers == 0 {
		return c
	}
	share := float64(m.WindowLayers) / float64(m.Layers)
	return c*(1-share) + min(c, float64(m.Window))*share
}
