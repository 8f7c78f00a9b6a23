package fsm

import (
	"errors"
	"fmt"
)

// Code classifies a refusal for callers that must branch on it.
type Code string

// Codes of refusals.
const (
	NotFound           Code = "not_found"
	AlreadyExists      Code = "already_exists"
	Conflict           Code = "conflict"            // the record is in a state that does not allow it
	PreconditionFailed Code = "precondition_failed" // if_match did not match
	Invalid            Code = "invalid"             // the command can never be accepted as it is
	StaleTerm          Code = "stale_term"          // decided by a leader of an earlier term
	Locked             Code = "locked"              // another rollout or experiment holds the group
	Quarantined        Code = "quarantined"         // the configuration failed here not long ago
	NoCapacity         Code = "capacity"            // would take the group below its floor or reserve
	OverBudget         Code = "error_budget"        // the error budgets do not allow it now
)

// Refusal is why a command was not carried out. The message is for people and says what to do.
type Refusal struct {
	Code    Code
	Message string
}

func (r *Refusal) Error() string { return r.Message }

func refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Errors after which the process must stop: its state would part from that of the other nodes.
var (
	// ErrUnknownCommand: the entry was written by a newer version of this program.
	ErrUnknownCommand = errors.New("log entry of a newer version: upgrade this control-plane node")
	// ErrCorrupt: the entry is not an envelope.
	ErrCorrupt = errors.New("log entry cannot be read")
	// ErrReplayed: the entry is at or below an index already applied.
	ErrReplayed = errors.New("log entry applied twice")
)

// Result of applying one entry.
type Result struct {
	// Index of the entry that had the effect: an earlier one when the request was a repetition.
	Index uint64
	// ObjectID names what the command created or changed.
	ObjectID string
	// Refusal is nil when the command was carried out.
	Refusal *Refusal
	// Fatal is set when the process must stop (ErrUnknownCommand, ErrCorrupt, ErrReplayed).
	Fatal error
}

// Err returns the fatal error or the refusal as an error, nil when the command was carried out.
func (r Result) Err() error {
	switch {
	case r.Fatal != nil:
		return r.Fatal
	case r.Refusal != nil:
		return r.Refusal
	}
	return nil
}
