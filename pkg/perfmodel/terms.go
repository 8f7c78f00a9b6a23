package perfmodel

// Terms is the duration of a step by cause, in seconds.
type Terms struct {
	Weights   float64 // reading weights; already 0 when Compute is the longer of the two
	Compute   float64 // matrix products; 0 when Weights is the longer
	KV        float64 // reading the cache of decoding sequences
	Attention float64 // attention over prompts
	Link      float64 // communication between GPUs
	Host      float64 // scheduling, sampling, launch
}

// Seconds is the duration of the step.
func (t Terms) Seconds() float64 {
	return t.Weights + t.Compute + t.KV + t.Attention + t.Link + t.Host
}

// StepSeconds is the duration of one engine iteration.
func (p *Predictor) StepSeconds(s Step) float64 { return p.Terms(s).Seconds() }

// Terms breaks the duration of one iteration down by cause.
//
// With pipeline stages, pp micro-batches of a pp-th of the work each are in flight and a token passes all
// stages in turn. In the steady state the time between two tokens of a sequence is pp turns of the slowest
// stage.
func (p *Predictor) Terms(s Step) Terms { return p.terms(p.load(s)) }

// LockstepSeconds is the duration of one iteration of data-parallel ranks that expert parallelism joins:
// all wait for the slowest (tuning.md §2).
func (p *Predictor) LockstepSeconds(ranks []Step) (longest float64) {
	for _, s := range ranks {
		longest = max(longest, p.StepSeconds(s))
	}
	return longest
}

// load is a step, or the mean of many, in real numbers.
type load struct {
	decoding, context, drafts, prompt, sampling float64
	scores                                      float64 // Σ new·(cached + new/2) over prompts
	async                                       bool
}

func (p *Predictor) load(s Step) load {
	l := load{
		decoding: float64(s.Decoding), context: float64(s.ContextTokens), drafts: float64(s.Drafts), prompt: float64(s.PromptTokens()),
		sampling: float64(s.Sampling + s.Drafts), async: s.Async,
	}
	for _, c := range s.Chunks {
		l.scores += float64(c.New) * p.setup.Model.windowed(float64(c.Cached)+float64(c.New)/2)
	}
	return l
}

// tokens that pass the layers: each draft is verified like a token.
func (l load) tokens() float64 { return l.decoding + l.drafts + l.prompt }

// cacheTokens is how many cached tokens the decoding sequences read together, as a mean over layers.
func (p *Predictor) cacheTokens(l load) float64 {
	if l.decoding <= 0 {
		return 0
	}
	return l.decoding * p.setup.Model.windowed(l.context/l.decoding)
}

// terms of one step of one data-parallel rank, in seconds (tuning.md §2, "Step time"):
//
//	max( Wb(T)/(t W e_w), (2 P T + 2 head S)/(t F e_c) )   T tokens, S of them sampling
//	+ Σ_decode C kv_g/(W e_kv)
//	+ Σ_chunk 4 L n_q d n (c + n/2)/(t F16 e_a)            n new tokens after c cached ones
//	+ link                                                 see linkSeconds
//	+ o_layer L + o_req B + o_fix                          o_layer as launchSeconds has it
func (p *Predictor) terms(l load) Terms {
	m, c := p.setup.Model, p.coeff
	stages, layers, slowest := float64(p.setup.Layout.PP), float64(m.Layers), p.stageExcess()
	tokens := l.tokens() / stages

	var t Terms
	read := p.WeightBytesPerStep(tokens) / p.weightRate * slowest
	multiply := (2*p.parts.active()*tokens + 2*p.parts.head*l.sampling/stages) / p.gemmRate * slowest
	if read >= multiply {
		t.Weights = read
	} else {
		t.Compute = multiply
	}
	t.KV = p.cacheTokens(l) * p.kvPerGPU / p.kvRate / stages * slowest
	t.Attention = 4 * layers * m.attentionWidth() * l.scores / p.attnRate / stages * slowest
	t.Link = p.linkSeconds(tokens)
	host := c.RequestSeconds*l.decoding/stages + c.FixedSeconds
	launch := p.launchSeconds(tokens)
	if gpu := t.Seconds() + launch; l.async {
		host = max(host-gpu, 0)
	}
	t.Host = launch + host
	return t
}

// stageExcess is by how much the slowest pipeline stage has more layers than the mean.
func (p *Predictor) stageExcess() float64 {
	pp, layers := p.setup.Layout.PP, p.setup.Model.Layers
	return float64((layers+pp-1)/pp*pp) / float64(layers)
}

// eagerFactor is how much longer a layer's launch takes without a captured graph: the centre of 8 to
// 30 µs against the prior's 4 µs (tuning.md §2, "Priors").
const eagerFactor = 19. / 4

// launchSeconds is o_layer L: what is left of launching kernels with graphs, or all of it where no graph
// covers the step.
func (p *Predictor) launchSeconds(tokens float64) float64 {
	launch := p.coeff.LayerSeconds * float64(p.setup.Model.Layers)
	if p.setup.Eager || p.setup.GraphTokens > 0 && tokens > float64(p.setup.GraphTokens) {
		launch *= eagerFactor
	}
	return launch
}

// WeightBytesPerStep is what a step over T tokens streams from memory, over all tensor-parallel ranks:
// Wb(T) = attn b_w + ffn b_w (E_hit(T) + e_s) + 2 head, in bytes (tuning.md §2). The input embedding is
// not streamed. Experts spread over several data-parallel ranks are touched by the tokens of all of them,
// taken as equally many on each, and this rank reads its share.
func (p *Predictor) WeightBytesPerStep(tokens float64) float64 {
	ranks, joined := p.setup.Layout.expertRanks()
	touched := p.parts.expertsTouched(tokens*joined)*float64(p.setup.Layout.TP)/ranks + p.parts.shared
	return p.parts.attention*p.attentionBytes + (p.parts.dense+p.parts.expert*touched)*p.weightBytes + 2*p.parts.head
}
