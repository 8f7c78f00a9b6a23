// Package real tests the product against real engines: vLLM's CPU build and SGLang with a tiny
// random-weight model. Its tests carry the build tag `real`; ENGINE names the kind. `make e2e-vllm`
// and `make e2e-sglang` set the engine up and run them.
package real
