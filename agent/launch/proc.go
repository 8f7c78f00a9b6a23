package launch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// proc is one process as /proc/PID/stat tells it. PID and Start together name a process for good;
// a PID alone may be given out again.
type proc struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
	ppid  int
	pgid  int
	sid   int
	state byte
	// threads is 1 for a process that has ended and waits to be reaped, more while other threads of
	// an ended first thread run on.
	threads int
	comm    string
}

// ended reports whether the process is but a zombie, which holds neither memory nor ports. Its
// reaping may be the business of a process 1 that never does it.
func (p proc) ended() bool { return (p.state == 'Z' || p.state == 'X') && p.threads <= 1 }

func (p proc) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.comm) }

var errStat = errors.New("not a /proc/PID/stat line")

// parseStat reads a stat line. The command name may hold anything, closing parentheses included.
func parseStat(line []byte) (proc, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return proc{}, errStat
	}
	f := bytes.Fields(line[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return proc{}, errStat
	}
	p := proc{state: f[0][0], comm: string(line[open+1 : end])}
	var errs [6]error
	p.PID, errs[0] = strconv.Atoi(string(bytes.TrimSpace(line[:open])))
	p.ppid, errs[1] = strconv.Atoi(string(f[1]))
	p.pgid, errs[2] = strconv.Atoi(string(f[2]))
	p.sid, errs[3] = strconv.Atoi(string(f[3]))
	p.threads, errs[5] = strconv.Atoi(string(f[17]))
	p.Start, errs[4] = strconv.ParseUint(string(f[19]), 10, 64)
	if errors.Join(errs[:]...) != nil {
		return proc{}, errStat
	}
	return p, nil
}

func readProc(pid int) (proc, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, err
	}
	return parseStat(b)
}

// processes lists all that can be seen and have not ended.
func processes() ([]proc, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []proc
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := readProc(pid); err == nil && !p.ended() {
			all = append(all, p)
		}
	}
	return all, nil
}

// descendants of the roots, without the roots, in whatever process group or session they are.
func descendants(all []proc, roots ...int) []proc {
	children := map[int][]proc{}
	for _, p := range all {
		children[p.ppid] = append(children[p.ppid], p)
	}
	seen := map[int]bool{}
	for _, r := range roots {
		seen[r] = true
	}
	var found []proc
	for len(roots) > 0 {
		next := roots[0]
		roots = roots[1:]
		for _, p := range children[next] {
			if !seen[p.PID] {
				seen[p.PID] = true
				found = append(found, p)
				roots = append(roots, p.PID)
			}
		}
	}
	return found
}

// hasEnv reports whether the process was started with that NAME=value. A process that may not be
// looked into, or that has overwritten its environment with a title, has not.
func hasEnv(pid int, assignment string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if string(v) == assignment {
			return true
		}
	}
	return false
}

// send signals exactly that process: the descriptor pins it while its start time is compared.
func (p proc) send(sig syscall.Signal) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // old kernel or seccomp filter
			if now, err := readProc(p.PID); err == nil && now.Start == p.Start {
				_ = syscall.Kill(p.PID, sig)
			}
		}
		return
	}
	defer unix.Close(fd)
	if now, err := readProc(p.PID); err == nil && now.Start == p.Start {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // it may have ended: then that is what was wanted
	}
}

// availableMemory is MemAvailable in bytes; ok is false where it cannot be read.
func availableMemory() (bytes int64, ok bool) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	return parseMemAvailable(string(b))
}

func parseMemAvailable(meminfo string) (int64, bool) {
	for line := range strings.Lines(meminfo) {
		rest, ok := strings.CutPrefix(line, "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		return kib << 10, err == nil
	}
	return 0, false
}

// place identifies where process ids mean the same: one boot, one process-id namespace.
func place() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // absent: the namespace decides alone
	ns, _ := os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(boot)) + " " + ns
}
