//go:build failpoint

package probation

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestCrashPoint(t *testing.T) {
	if os.Getenv("PERF_CRASH_TEST") != "" {
		crashPoint(Applying, false)
		crashPoint(Applying, true)
		return
	}
	for at, killed := range map[string]bool{"": false, "WARMING": false, "APPLYING": true, "APPLYING:before": true, "APPLYING:after": true} {
		child := exec.Command(os.Args[0], "-test.run=TestCrashPoint")
		child.Env = append(os.Environ(), "PERF_CRASH_TEST=1", "PERF_CRASH_AT="+at)
		var exit *exec.ExitError
		err := child.Run()
		got := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if got != killed {
			t.Errorf("%q: killed %v, want %v (%v)", at, got, killed, err)
		}
	}
}
