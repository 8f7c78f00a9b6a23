package perfmodel

// Coefficients turn data-sheet figures into those of an engine: efficiencies as fractions of the peak,
// overheads in seconds. Calibration replaces them by fitted ones. Only predictions are identified by
// data, single coefficients are not, so fitted efficiencies may exceed 1.
type Coefficients struct {
	Weights   float64 `yaml:"weights" json:"weights"`     // e_w, reading weights from memory
	Compute   float64 `yaml:"compute" json:"compute"`     // e_c, matrix products
	Attention float64 `yaml:"attention" json:"attention"` // e_a, attention over prompts
	KV        float64 `yaml:"kv" json:"kv"`               // e_kv, reading the KV cache
	Link      float64 `yaml:"link" json:"link"`           // e_n, link between GPUs

	LayerSeconds     float64 `yaml:"layer_seconds" json:"layer_seconds"`         // o_layer, per layer and step
	RequestSeconds   float64 `yaml:"request_seconds" json:"request_seconds"`     // o_req, per decoding sequence and step
	FixedSeconds     float64 `yaml:"fixed_seconds" json:"fixed_seconds"`         // o_fix, per step
	AllReduceSeconds float64 `yaml:"allreduce_seconds" json:"allreduce_seconds"` // a_t, latency of one all-reduce
}

// Prior returns what to assume of an engine nothing is known about yet: centres of ranges published for
// vLLM, SGLang and TensorRT-LLM with CUDA graphs on.
func Prior() Coefficients {
	return Coefficients{
		Weights: .84, Compute: .6, Attention: .35, KV: .8, Link: .75,
		LayerSeconds: 4e-6, RequestSeconds: 12e-6, FixedSeconds: .35e-3, AllReduceSeconds: 9e-6,
	}
}

// PriorSpread returns standard deviations of the logarithms of Prior's coefficients: a quarter of the
// width of the range each was published with, at least 15 % (tuning.md §2, "Priors").
func PriorSpread() Coefficients {
	const least = .15
	quarter := func(low, high float64) float64 { return max((high-low)/4/((high+low)/2), least) }
	return Coefficients{
		Weights: quarter(.80, .88), Compute: quarter(.45, .65), Attention: least, KV: quarter(.70, .90), Link: quarter(.7, .8),
		LayerSeconds: quarter(8, 30), RequestSeconds: quarter(5, 25), FixedSeconds: quarter(.2, .5), AllReduceSeconds: quarter(8, 10),
	}
}
