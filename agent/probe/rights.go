package probe

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode is how packets are seen.
type Mode string

// Modes.
const (
	// ModeAuto takes what the rights allow: interfaces first.
	ModeAuto Mode = "auto"
	// ModeOff observes nothing.
	ModeOff Mode = "off"
	// ModePacket observes the interfaces of this network namespace.
	ModePacket Mode = "packet"
	// ModeCgroup observes the sockets of a control group and all below it, in any network namespace.
	ModeCgroup Mode = "cgroup"
)

// ErrUnavailable is behind every error that says why requests cannot be observed here. The engine's
// own metrics serve instead.
var ErrUnavailable = errors.New("requests cannot be observed on the wire")

// MissingError names the capabilities that this process lacks for a mode.
type MissingError struct {
	Mode    Mode
	Missing []string
}

// Error says which, and what to do.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%v: %s missing for mode %s; add to the container's securityContext.capabilities, or leave it: the engine's metrics serve instead",
		ErrUnavailable, strings.Join(e.Missing, " and "), e.Mode)
}

// Unwrap makes it an ErrUnavailable.
func (e *MissingError) Unwrap() error { return ErrUnavailable }

// capabilities is a set of them, by the kernel's numbers.
type capabilities uint64

func (c capabilities) has(n int) bool { return c>>n&1 == 1 }

// effective reads the capabilities of this process.
func effective() (capabilities, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	for l := range bytes.SplitSeq(raw, []byte{'\n'}) {
		if v, ok := bytes.CutPrefix(l, []byte("CapEff:")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("read capabilities: %w", err)
			}
			return capabilities(n), nil
		}
	}
	return 0, errors.New("read capabilities: none in /proc/self/status")
}

// lacks names what a mode needs and c has not.
func (c capabilities) lacks(m Mode) (missing []string) {
	if !c.has(unix.CAP_BPF) && !c.has(unix.CAP_SYS_ADMIN) {
		missing = append(missing, "CAP_BPF")
	}
	if m == ModeCgroup && !c.has(unix.CAP_NET_ADMIN) {
		missing = append(missing, "CAP_NET_ADMIN")
	}
	if m == ModePacket && !c.has(unix.CAP_NET_RAW) {
		missing = append(missing, "CAP_NET_RAW")
	}
	return missing
}

// choose settles on a mode.
func (c capabilities) choose(want Mode) (Mode, error) {
	if want != ModeAuto && want != "" {
		if missing := c.lacks(want); len(missing) > 0 {
			return "", &MissingError{want, missing}
		}
		return want, nil
	}
	if len(c.lacks(ModePacket)) == 0 {
		return ModePacket, nil
	}
	if len(c.lacks(ModeCgroup)) == 0 {
		return ModeCgroup, nil
	}
	return "", &MissingError{ModePacket, c.lacks(ModePacket)}
}

// Check says whether this process may observe in that mode, and in which it would. It changes
// nothing.
func Check(want Mode) (Mode, error) {
	c, err := effective()
	if err != nil {
		return "", err
	}
	return c.choose(want)
}

// refused explains an error of the kernel's although the capabilities are there.
func refused(step string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s: %w; the capabilities are there, so a seccomp profile or the kernel's lockdown refuses bpf()", ErrUnavailable, step, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, step, err)
}
