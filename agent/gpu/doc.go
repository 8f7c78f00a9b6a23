// Package gpu knows what the GPUs of an engine do. It follows a reader, the program in reader/ that
// asks NVIDIA's management library (NVML) once a second: a process of its own, because a driver that
// lacks a function ends the process that calls it, and one that hangs takes a thread along. This
// package starts the reader anew when it ends or falls silent, and keeps its newest record.
//
// Where the reader runs is left to the caller (Open): beside this process, or in the engine's
// container, whose launcher owns the GPUs. What a record means for an engine is agent/collect's
// business. Without a GPU everything else works as before; that is said once.
package gpu
