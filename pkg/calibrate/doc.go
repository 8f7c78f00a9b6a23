// Package calibrate learns how long one cell - a model on a GPU under one engine and version - takes for
// its work, from what it did in production at one configuration: one-second windows or records of single
// requests. A Calibration predicts other configurations and loads through pkg/des, with intervals.
//
// It reads no clock and does no I/O. Which configurations are worth asking about belongs to the
// optimizer, the physics of a known GPU to pkg/perfmodel.
package calibrate
