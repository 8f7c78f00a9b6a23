package probation

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SystemClock returns a clock that reads the machine's own: CLOCK_BOOTTIME, which neither jumps nor
// stands still while the machine is suspended, and the kernel's boot id, which tells whether two of
// its readings may be compared.
func SystemClock() (func() Instant, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	bootID := strings.TrimSpace(string(id))
	var probe unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &probe); err != nil {
		return nil, fmt.Errorf("read boot clock: %w", err)
	}
	return func() Instant {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			panic("the boot clock went away: " + err.Error()) // it answered a moment ago
		}
		return Instant{Boot: time.Duration(ts.Nano()), BootID: bootID, Wall: time.Now()}
	}, nil
}
