package collect

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cpuGroups are the folders of the control groups that may limit a process's processor time: its
// own and all above it, in the first or the second version of the hierarchy. None can be told where
// the file system of control groups is not mounted.
func cpuGroups(root string, pid int) []string {
	raw, err := os.ReadFile(filepath.Join(root, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(raw)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		for _, mount := range cgroupMounts(controllers) {
			for dir := filepath.Join(mount, path); ; dir = filepath.Dir(dir) {
				dirs = append(dirs, dir)
				if dir == mount || len(dir) < len(mount) {
					break
				}
			}
		}
	}
	return dirs
}

// cgroupMounts are the usual places of a hierarchy.
func cgroupMounts(controllers string) []string {
	switch {
	case controllers == "": // version 2
		return []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}
	case slices.Contains(strings.Split(controllers, ","), "cpu"):
		return []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}
	}
	return nil
}

// throttled is how long the members of a group were kept from running by its quota, in seconds.
func throttled(dir string) (seconds float64, ok bool) {
	raw, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		unit := map[string]float64{"throttled_time": 1e9, "throttled_usec": 1e6}[name]
		if v, err := strconv.ParseUint(value, 10, 64); err == nil && unit > 0 {
			return float64(v) / unit, true
		}
	}
	return 0, false
}
