//go:build failpoint

package probation

import (
	"os"
	"strings"
	"syscall"
)

// crashPoint kills the process, as a loss of power would, when PERF_CRASH_AT names the phase that
// was just journaled: "APPLYING" or "APPLYING:before" before the phase's action, "APPLYING:after"
// after it and before its end is journaled. Only builds with the tag "failpoint" have it.
func crashPoint(p Phase, after bool) {
	at, when, _ := strings.Cut(os.Getenv("PERF_CRASH_AT"), ":")
	if at == "" || "PHASE_"+at != p.String() || (when == "after") != after {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // the signal is on its way
}
