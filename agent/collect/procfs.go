package collect

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// ticksPerSecond of the times in /proc: 100 on every Linux this runs on.
const ticksPerSecond = 100

// backlogBytes unsent to a client count as a backlog: some twenty events of a stream. Less is on
// its way to any client.
const backlogBytes = 4096

// processTree is an engine: the process that listens and its descendants. root 0 is none.
type processTree struct {
	root    int
	started float64 // of root, seconds since boot
	members []int
}

// hostTotals are the sums of one look, in seconds.
type hostTotals struct {
	at, started    float64 // since boot
	cores          float64
	cpu, throttled float64
	front          float64 // CPU time of the process that listens
	hostCPU, steal float64
	waits          map[string]float64 // time runnable and not running, by thread
	throttledKnown bool
}

// gained is the increase since an earlier look.
func (t hostTotals) gained(is hostTotals) map[string]float64 {
	longest := 0.0
	for thread, w := range is.waits {
		if was, ok := t.waits[thread]; ok {
			longest = max(longest, w-was)
		}
	}
	out := map[string]float64{
		fleet.EngineCPUSeconds:      max(0, is.cpu-t.cpu), // a process that ended takes its time along
		fleet.EngineFrontCPUSeconds: max(0, is.front-t.front),
		fleet.HostCPUSeconds:        max(0, is.hostCPU-t.hostCPU),
		fleet.HostStealSeconds:      max(0, is.steal-t.steal),
	}
	if len(is.waits) > 0 {
		out[fleet.EngineRunWaitSeconds] = longest
	}
	if is.throttledKnown && t.throttledKnown {
		out[fleet.EngineThrottledSeconds] = max(0, is.throttled-t.throttled)
	}
	return out
}

// findEngine finds the process that listens on port, and its descendants.
func findEngine(root string, port uint16) (processTree, error) {
	inodes := listeners(root, port)
	stats := map[int]procStat{}
	for _, pid := range numbers(root) {
		if s, err := readStat(root, pid); err == nil {
			stats[pid] = s
		}
	}
	front := 0
	for pid := range stats {
		// Workers may inherit the socket: the one whose parent does not have it is the front.
		if holds(root, pid, inodes) && !holds(root, stats[pid].parent, inodes) {
			front = pid
		}
	}
	if front == 0 {
		return processTree{}, errNoListener
	}
	t := processTree{root: front, started: stats[front].started, members: []int{front}}
	for i := 0; i < len(t.members); i++ {
		for pid, s := range stats {
			if s.parent == t.members[i] {
				t.members = append(t.members, pid)
			}
		}
	}
	return t, nil
}

// lives reports whether the front process is still the same one.
func (t processTree) lives(root string) bool {
	s, err := readStat(root, t.root)
	return err == nil && s.started == t.started
}

func (t processTree) stopped(root string) bool {
	for _, pid := range t.members {
		if s, err := readStat(root, pid); err == nil && s.state == 'T' {
			return true
		}
	}
	return false
}

func (t processTree) totals(root string) (hostTotals, error) {
	h := hostTotals{started: t.started, cores: float64(runtime.NumCPU()), waits: map[string]float64{}}
	var err error
	if h.at, err = uptime(root); err != nil {
		return h, err
	}
	groups := map[string]bool{}
	for _, pid := range t.members {
		s, err := readStat(root, pid)
		if err != nil {
			if pid == t.root {
				return h, err
			}
			continue
		}
		h.cpu += s.cpu
		if pid == t.root {
			h.front = s.cpu
		}
		threadWaits(root, pid, h.waits)
		for _, dir := range cpuGroups(root, pid) {
			groups[dir] = true
		}
	}
	for dir := range groups {
		if seconds, ok := throttled(dir); ok {
			h.throttled, h.throttledKnown = h.throttled+seconds, true
		}
	}
	h.hostCPU, h.steal = hostCPU(root)
	return h, nil
}

type procStat struct {
	parent       int
	state        byte
	cpu, started float64 // seconds
}

// readStat reads /proc/PID/stat. The command's name may hold anything, parentheses included.
func readStat(root string, pid int) (procStat, error) {
	raw, err := os.ReadFile(filepath.Join(root, strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return procStat{}, fmt.Errorf("stat of process %d is not understood", pid)
	}
	parent, _ := strconv.Atoi(string(f[1])) // the kernel writes numbers
	return procStat{
		state: f[0][0], parent: parent,
		cpu: (amount(string(f[11])) + amount(string(f[12]))) / ticksPerSecond, started: amount(string(f[19])) / ticksPerSecond,
	}, nil
}

// amount is a number of the kernel's; 0 of anything else.
func amount(text string) float64 {
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return float64(v)
}

// numbers lists the numeric entries of a folder of /proc.
func numbers(dir string) []int {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // what was read before an error counts
	var out []int
	for _, n := range names {
		if v, err := strconv.Atoi(n); err == nil {
			out = append(out, v)
		}
	}
	return out
}

// threadWaits adds the run-queue waits of a process's threads, in seconds.
func threadWaits(root string, pid int, into map[string]float64) {
	tasks := filepath.Join(root, strconv.Itoa(pid), "task")
	for _, tid := range numbers(tasks) {
		raw, err := os.ReadFile(filepath.Join(tasks, strconv.Itoa(tid), "schedstat"))
		f := bytes.Fields(raw)
		if err != nil || len(f) < 2 {
			continue
		}
		into[strconv.Itoa(tid)] = amount(string(f[1])) / 1e9
	}
}

func uptime(root string) (float64, error) {
	raw, err := os.ReadFile(filepath.Join(root, "uptime"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(raw), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err == nil && !(v >= 0 && v <= math.MaxFloat64) {
		err = fmt.Errorf("uptime %q is no time", first)
	}
	return v, err
}

// hostCPU sums up the time the host's cores worked, for itself and for its hypervisor's others.
func hostCPU(root string) (busy, steal float64) {
	raw, err := os.ReadFile(filepath.Join(root, "stat"))
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	f := strings.Fields(line)
	for i := 1; i < len(f) && i <= 8; i++ {
		v := amount(f[i])
		switch i {
		case 4, 5: // idle, waiting for a disk
		case 8:
			steal = v / ticksPerSecond
		default:
			busy += v / ticksPerSecond
		}
	}
	return busy, steal
}

// Fields of a line of /proc/net/tcp.
const (
	tcpEstablished = "01"
	tcpListen      = "0A"
)

// sockets calls f for each TCP socket of that local port.
func sockets(root string, port uint16, f func(state, inode string, unsent uint64)) (ok bool) {
	suffix := fmt.Sprintf(":%04X", port)
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		file, err := os.Open(filepath.Join(root, name))
		if err != nil {
			continue
		}
		ok = true
		for lines := bufio.NewScanner(file); lines.Scan(); {
			c := strings.Fields(lines.Text())
			if len(c) < 10 || !strings.HasSuffix(c[1], suffix) {
				continue
			}
			tx, _, _ := strings.Cut(c[4], ":")
			unsent, err := strconv.ParseUint(tx, 16, 64)
			if err == nil {
				f(c[3], c[9], unsent)
			}
		}
		file.Close()
	}
	return ok
}

// listeners are the socket inodes that listen on port.
func listeners(root string, port uint16) map[string]bool {
	inodes := map[string]bool{}
	sockets(root, port, func(state, inode string, _ uint64) {
		if state == tcpListen {
			inodes["socket:["+inode+"]"] = true
		}
	})
	return inodes
}

// connections counts the engine's open connections, and those with a backlog.
func connections(root string, port uint16) (open, backlogged int, ok bool) {
	ok = sockets(root, port, func(state, _ string, unsent uint64) {
		if state != tcpEstablished {
			return
		}
		open++
		if unsent > backlogBytes {
			backlogged++
		}
	})
	return open, backlogged, ok
}

func holds(root string, pid int, inodes map[string]bool) bool {
	if len(inodes) == 0 {
		return false
	}
	dir := filepath.Join(root, strconv.Itoa(pid), "fd")
	for _, fd := range numbers(dir) {
		if to, err := os.Readlink(filepath.Join(dir, strconv.Itoa(fd))); err == nil && inodes[to] {
			return true
		}
	}
	return false
}
