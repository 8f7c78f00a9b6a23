package perfmodel

// Chunk is the part of one prompt that a step computes.
type Chunk struct {
	New    int // tokens computed in this step
	Cached int // tokens of the same sequence already in the KV cache
}

// Step describes the work of one engine iteration of one data-parallel rank, the input of StepSeconds.
type Step struct {
	Decoding      int     // sequences that generate one token each
	ContextTokens int     // context of all decoding sequences together, in tokens
	Chunks        []Chunk // prompts and parts of prompts computed beside them
	Sampling      int     // sequences that sample a token at the end of the step
	Drafts        int     // draft tokens verified beside them, all sequences together
	Async         bool    // the host prepares the next step while the accelerator works
}

// PromptTokens is the number of prompt tokens the step computes.
func (s Step) PromptTokens() int {
	n := 0
	for _, c := range s.Chunks {
		n += c.New
	}
	return n
}
