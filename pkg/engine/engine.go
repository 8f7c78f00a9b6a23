// Package engine is the plugin SDK: the contract that an engine adapter fulfils, and what serves
// and calls it over go-plugin's gRPC. Adapters import this package and nothing else of ours.
//
// An adapter is stateless. Data types are the wire's own (enginev1), under short names.
package engine

import (
	"context"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Names for the wire's data types, so that an adapter reads without the protobuf package.
type (
	Target           = enginev1.Target
	Description      = enginev1.Description
	Knob             = enginev1.Knob
	Constraint       = enginev1.Constraint
	Signal           = enginev1.Signal
	Probes           = enginev1.Probes
	FailureSignature = enginev1.FailureSignature
	ProgressPattern  = enginev1.ProgressPattern
	Stop             = enginev1.Stop
	Problem          = enginev1.Problem
	KnobResult       = enginev1.KnobResult
)

// Settings are knob values by knob name, as text. A set is always complete: a knob that is absent
// has the value of the operator's own command line or, without one, the engine's default.
type Settings map[string]string

// CommandLine is what the launcher is to run.
type CommandLine struct {
	Argv      []string
	Env       map[string]string
	Effective Settings
	Warnings  []string
}

// Adapter knows one serving engine. All methods may be called at any time from any goroutine, and
// again with the same input for the same answer. They return within ten seconds or when ctx ends.
type Adapter interface {
	// Describe never fails for an engine that does not answer; it then says less.
	Describe(ctx context.Context, t *Target) (*Description, error)
	// Validate returns nil when the settings are acceptable for the target's version.
	Validate(ctx context.Context, t *Target, s Settings) ([]*Problem, error)
	// Command returns the command line for settings that Validate accepted.
	Command(ctx context.Context, t *Target, s Settings) (*CommandLine, error)
	// Apply changes hot knobs in a running engine and says for each whether it took.
	Apply(ctx context.Context, t *Target, s Settings) ([]*KnobResult, error)
}
