package inject

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// quotaPeriod in which the share of a core is granted.
const quotaPeriod = 100 * time.Millisecond

// cpuHierarchies are the folders below which control groups with a processor quota can be made.
var cpuHierarchies = []struct {
	dir string
	set func(dir string, share float64) error
}{
	{"/sys/fs/cgroup/cpu", setV1},
	{"/sys/fs/cgroup", setV2},
}

// Quota limits processes together to a share of one core, until release is called. It needs the
// right to make control groups.
func Quota(pids []int, share float64) (release func() error, err error) {
	var faults []error
	for _, h := range cpuHierarchies {
		dir := filepath.Join(h.dir, "inject-"+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			faults = append(faults, err)
			continue
		}
		release = func() error { return errors.Join(move(pids, h.dir), os.Remove(dir)) }
		if err := errors.Join(h.set(dir, share), move(pids, dir)); err != nil {
			faults = append(faults, err, release())
			continue
		}
		return release, nil
	}
	return nil, fmt.Errorf("no control group can limit the processor here: %w", errors.Join(faults...))
}

func setV1(dir string, share float64) error {
	return errors.Join(
		write(dir, "cpu.cfs_period_us", strconv.FormatInt(quotaPeriod.Microseconds(), 10)),
		write(dir, "cpu.cfs_quota_us", quota(share)),
	)
}

func setV2(dir string, share float64) error {
	return write(dir, "cpu.max", quota(share)+" "+strconv.FormatInt(quotaPeriod.Microseconds(), 10))
}

func quota(share float64) string {
	return strconv.FormatInt(int64(share*float64(quotaPeriod.Microseconds())), 10)
}

// move puts processes, with all their threads, into a group.
func move(pids []int, dir string) error {
	var errs []error
	for _, pid := range pids {
		if err := write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil && running(pid) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func write(dir, file, text string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644)
}

func running(pid int) bool {
	_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid)))
	return err == nil
}
