package perfmodel

import (
	"errors"
	"fmt"
	"strings"
)

// ErrPrecision means a number format is unknown, or the GPU cannot run it.
var ErrPrecision = errors.New("unsupported precision")

// Precision is a number format of weights or of KV entries. The empty value means the checkpoint's own.
type Precision string

// Known formats.
const (
	BF16  Precision = "bf16"
	FP16  Precision = "fp16"
	FP8   Precision = "fp8"
	INT8  Precision = "int8"
	INT4  Precision = "int4" // weight only, AWQ or GPTQ
	MXFP4 Precision = "mxfp4"
	NVFP4 Precision = "nvfp4"
)

// bytesPerWeight includes the scales of block formats.
var bytesPerWeight = map[Precision]float64{BF16: 2, FP16: 2, FP8: 1, INT8: 1, INT4: .53, MXFP4: .53, NVFP4: .5625}

// bytesPerKV of a cached element; the empty format is two bytes wide.
var bytesPerKV = map[Precision]float64{"": 2, BF16: 2, FP16: 2, FP8: 1, INT8: 1}

// ParsePrecision accepts the spellings engines use.
func ParsePrecision(s string) (Precision, error) {
	switch l := strings.ToLower(s); l {
	case "", "auto":
		return "", nil
	case "bfloat16", "bf16":
		return BF16, nil
	case "float16", "half", "fp16":
		return FP16, nil
	case "fp8", "fp8_e4m3", "fp8_e4m3fn", "fp8_e5m2", "fbgemm_fp8":
		return FP8, nil
	case "awq", "gptq", "awq_marlin", "gptq_marlin", "int4":
		return INT4, nil
	case "int8", "w8a8_int8":
		return INT8, nil
	case "mxfp4", "nvfp4":
		return Precision(l), nil
	}
	return "", fmt.Errorf("%w: %q", ErrPrecision, s)
}

// flops is the dense peak in FLOP/s of the matrix products of weights in format w.
func (g GPU) flops(w Precision) (float64, error) {
	tera := g.BF16TFLOPS
	switch w {
	case BF16:
		if g.FP16Only {
			return 0, fmt.Errorf("%w: this GPU has no bf16, use fp16", ErrPrecision)
		}
	case FP8:
		tera = g.FP8TFLOPS
	case INT8:
		tera = g.INT8TOPS
	case NVFP4:
		tera = g.FP4TFLOPS
	case MXFP4:
		tera = max(g.FP4TFLOPS, g.BF16TFLOPS) // without FP4 units the weights are widened
	}
	if tera <= 0 {
		return 0, fmt.Errorf("%w: this GPU has no %s rate", ErrPrecision, w)
	}
	return tera * 1e12, nil
}
