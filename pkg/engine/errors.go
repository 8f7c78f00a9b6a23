package engine

import "errors"

// ErrBadAnswer: an adapter answered with something that the contract rules out.
var ErrBadAnswer = errors.New("adapter broke the contract")

// ErrNoCommand: the target's command line does not show the engine's own program, so that flags
// cannot be added to it.
var ErrNoCommand = errors.New("command line cannot be changed")
