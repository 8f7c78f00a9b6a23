// Package perfmodel holds the closed-form physics of a serving engine: how long one iteration takes on
// a GPU, how many tokens its KV cache holds, what latency and throughput a configuration reaches. It
// also holds the tables of GPUs and models that the formulas need, and reads models from config.json.
//
// Two forms of the step time live side by side. A Predictor is a plain roofline with a handful of
// efficiencies and overheads, good for any setup. A Law is a weighted sum of features, of which only the
// sum means something: that is what fits to measurements, and PublicLaw is one that was.
//
// Everything here is pure. Queueing under real traffic belongs to pkg/des, fitting to what an engine shows
// to the calibrator.
package perfmodel
