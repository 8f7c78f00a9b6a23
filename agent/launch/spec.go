// Package launch is the launcher, process 1 beside an engine, and the sidecar's client for it.
//
// The launcher owns the engine process: it starts, stops and restarts it, reaps what it leaves
// behind, keeps its last output and survives without a sidecar. It decides nothing: which command
// line to run is the sidecar's business, and without one it runs the operator's own.
package launch

import "time"

// Spec is one way to run the engine.
type Spec struct {
	Argv []string          `json:"argv"`
	Env  map[string]string `json:"env,omitempty"`
	// Fingerprint identifies the configuration: the body hash for a managed one, "base" for the
	// operator's own command line. The launcher only stores and returns it.
	Fingerprint string `json:"fingerprint"`
	Epoch       uint64 `json:"epoch"`
	// Grace between SIGTERM and SIGKILL when this engine is stopped.
	Grace time.Duration `json:"grace_ns"`
	// KilledIsClean: the engine ends itself by SIGKILL after a clean drain.
	KilledIsClean bool `json:"killed_is_clean,omitempty"`
}

// State of the engine process.
type State string

// States of the engine process.
const (
	Starting  State = "starting" // being started; the process exists or will within moments
	Running   State = "running"  // the process exists; whether it serves is not known here
	Stopping  State = "stopping"
	Stopped   State = "stopped"    // by request
	CrashLoop State = "crash_loop" // exited too often; waits for a Start
	Failed    State = "failed"     // could not be executed at all; Error says why
	Exited    State = "exited"     // ended unasked; started again after a pause, Error says when and as what
)

// Exit of an engine process.
type Exit struct {
	At        time.Time `json:"at"`
	PID       int       `json:"pid"`
	Code      int       `json:"code"`
	Signal    string    `json:"signal,omitempty"`
	Requested bool      `json:"requested"`
	Epoch     uint64    `json:"epoch"`
}

// Status is the launcher's answer to "how is it".
type Status struct {
	State     State     `json:"state"`
	PID       int       `json:"pid,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
	// Current is the spec that runs or ran last; Base the operator's own command line; Committed
	// the one that a restarted launcher would start.
	Current   Spec `json:"current"`
	Base      Spec `json:"base"`
	Committed Spec `json:"committed"`
	// UnrequestedExits since the last Start request; Exits keeps the newest of all.
	UnrequestedExits int    `json:"unrequested_exits"`
	Exits            []Exit `json:"exits,omitempty"`
	Restarts         int    `json:"restarts"`
	Error            string `json:"error,omitempty"`
	// LogOffset is where in the log the output of the current engine begins.
	LogOffset uint64 `json:"log_offset"`
	// LauncherStartedAt tells a sidecar that the launcher itself was restarted.
	LauncherStartedAt time.Time `json:"launcher_started_at"`
}
