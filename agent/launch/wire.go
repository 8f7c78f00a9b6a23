package launch

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels of the launcher's answers. The client returns them too, wrapped with the launcher's
// own words.
var (
	// ErrRunning: Start was asked for while an engine runs with another configuration.
	ErrRunning = errors.New("another configuration is running")
	// ErrSuperseded: a newer request came before this one was carried out.
	ErrSuperseded = errors.New("superseded by a newer request")
	// ErrInvalidSpec: the request cannot be understood or the spec has no command.
	ErrInvalidSpec = errors.New("not a usable spec")
	// ErrCommand: the engine command is missing or cannot be executed.
	ErrCommand = errors.New("engine command cannot be executed")
	// ErrState: the state folder cannot be read or written.
	ErrState = errors.New("state folder is unusable")
	// ErrInUse: another live launcher owns the socket or the state folder.
	ErrInUse = errors.New("in use by a live launcher")
	// ErrUnreachable: nothing answers on the launcher's socket.
	ErrUnreachable = errors.New("launcher does not answer")
	// ErrEnding: the launcher was told to end and takes no requests any more.
	ErrEnding = errors.New("launcher is ending")
	// ErrNoGPUReader: the launcher has no program that reads GPUs.
	ErrNoGPUReader = errors.New("no GPU reader beside the launcher")
)

// OwnGrace asks Stop to use the grace of the running spec.
const OwnGrace = time.Duration(-1)

// Log is a piece of what the engine wrote to its standard output and standard error. Offsets count
// bytes since the state folder was made, across restarts of engine and launcher.
type Log struct {
	// Offset of the first byte of Text; later than asked for when the older part is gone.
	Offset uint64 `json:"offset"`
	// Next is what to ask for to continue after Text.
	Next uint64 `json:"next"`
	Text string `json:"text"`
}

type specRequest struct {
	Spec Spec `json:"spec"`
}

type stopRequest struct {
	// Grace is absent for the spec's own.
	Grace *time.Duration `json:"grace_ns,omitempty"`
}

// failure is the body of every answer that is not 200.
type failure struct {
	Error string `json:"error"`
	Code  string `json:"code"`
}

// codes pairs each sentinel with its name on the wire and its HTTP status.
var codes = []struct {
	err    error
	code   string
	status int
}{
	{ErrRunning, "running", 409},
	{ErrSuperseded, "superseded", 409},
	{ErrInvalidSpec, "invalid_spec", 400},
	{ErrCommand, "command", 422},
	{ErrState, "state", 507},
	{ErrEnding, "ending", 503},
	{ErrNoGPUReader, "no_gpu_reader", 501},
}

func encodeFailure(err error) (int, failure) {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.status, failure{Error: err.Error(), Code: c.code}
		}
	}
	return 500, failure{Error: err.Error(), Code: "internal"}
}

func decodeFailure(status int, f failure) error {
	for _, c := range codes {
		if f.Code == c.code {
			return &answer{text: f.Error, is: c.err}
		}
	}
	return fmt.Errorf("launcher answered %d: %s", status, f.Error)
}

// answer is a launcher's error with its own words, which already name the sentinel.
type answer struct {
	text string
	is   error
}

func (a *answer) Error() string { return a.text }
func (a *answer) Unwrap() error { return a.is }

// Validate says what is wrong with a spec. It does not look for the command.
func (s Spec) Validate() error {
	switch {
	case len(s.Argv) == 0 || s.Argv[0] == "":
		return fmt.Errorf("%w: it names no command", ErrInvalidSpec)
	case s.Fingerprint == "":
		return fmt.Errorf("%w: it has no fingerprint", ErrInvalidSpec)
	case s.Grace < 0:
		return fmt.Errorf("%w: its grace %v is negative", ErrInvalidSpec, s.Grace)
	}
	return nil
}

// Same reports whether two specs are one configuration: same fingerprint, same epoch.
func (s Spec) Same(o Spec) bool { return s.Fingerprint == o.Fingerprint && s.Epoch == o.Epoch }
