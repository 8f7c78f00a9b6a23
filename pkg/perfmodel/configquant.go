package perfmodel

import (
	"fmt"
	"slices"
	"strings"
)

// hfQuantization is how a checkpoint says in which format its weights are.
type hfQuantization struct {
	Method string `json:"quant_method"`
	Algo   string `json:"quant_algo"` // modelopt
	Bits   int    `json:"bits"`       // gptq, awq
	In4Bit bool   `json:"load_in_4bit"`
	In8Bit bool   `json:"load_in_8bit"`
	Groups map[string]struct {
		Weights struct {
			Bits int    `json:"num_bits"`
			Type string `json:"type"`
			Size int    `json:"group_size"`
		} `json:"weights"`
	} `json:"config_groups"` // compressed-tensors
}

// precision of the weights, empty when the checkpoint is not quantised.
func (q hfQuantization) precision() (Precision, error) {
	method := strings.ToLower(q.Method)
	switch {
	case method == "bitsandbytes" && q.In4Bit:
		return INT4, nil
	case method == "bitsandbytes" && q.In8Bit:
		return INT8, nil
	case method == "modelopt" || method == "modelopt_fp4":
		if p, err := ParsePrecision(q.Algo); err == nil && p != "" {
			return p, nil
		}
	case method == "compressed-tensors":
		if p := q.group(); p != "" {
			return p, nil
		}
	case (method == "gptq" || method == "awq") && q.Bits == 8:
		return INT8, nil
	default:
		if p, err := ParsePrecision(method); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: quantization %q; describe the model in the table override, with its format as native", ErrConfig, strings.TrimSpace(q.Method+" "+q.Algo))
}

// group is the format that the groups of layers share, the first by name if they differ.
func (q hfQuantization) group() Precision {
	names := make([]string, 0, len(q.Groups))
	for name := range q.Groups {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		w := q.Groups[name].Weights
		switch {
		case w.Bits == 8 && w.Type == "float":
			return FP8
		case w.Bits == 8:
			return INT8
		case w.Bits == 4 && w.Type == "float" && w.Size == 32:
			return MXFP4
		case w.Bits == 4 && w.Type == "float":
			return NVFP4
		case w.Bits == 4:
			return INT4
		}
	}
	return ""
}
