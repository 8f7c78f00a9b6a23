package loadtest

import "github.com/optiinfra/performance-agent/pkg/load"

// What comes of a run is described in pkg/load, which the control plane shares.
type (
	Record     = load.Record
	Objectives = load.Objectives
	Summary    = load.Summary
)

// Failure classes.
const (
	FailedNotReady   = load.FailedNotReady
	FailedTooMany    = load.FailedTooMany
	FailedConnect    = load.FailedConnect
	FailedStream     = load.FailedStream
	FailedCut        = load.FailedCut
	FailedEmpty      = load.FailedEmpty
	FailedTimeout    = load.FailedTimeout
	FailedUnfinished = load.FailedUnfinished
)
