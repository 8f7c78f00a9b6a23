// Package perfmodel holds the closed-form physics of a serving engine: how long one iteration takes on
// a GPU, how many tokens its KV cache holds, what latency and throughput a configuration reaches. It
// also holds the tables of GPUs and models that the formulas need.
//
// Everything here is pure and predicts a plain roofline with a handful of efficiencies and overheads.
// Queueing under real traffic belongs to pkg/des, fitting the coefficients to what an engine shows
// belongs to the control plane's calibrator.
package perfmodel
