package collect

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// kin says whose a process on a GPU is.
type kin int8

const (
	stranger kin = iota // not known: the process cannot be seen from here, or the engine cannot
	engines             // the engine's
	others              // seen, and not the engine's
)

// initialNamespace is the kernel's name of the namespace in which processes have the host's ids.
const initialNamespace = "pid:[4026531836]"

// pidView tells whose the processes are that a driver names. Newer drivers name a process by its id
// in the namespace of the reader, older ones by its id on the host, and the engine is known by its
// ids in the namespace of this process. Which driver it is does not show, so a process is the
// engine's if it is in either reading.
type pidView struct {
	root    string // of this namespace's proc file system
	host    string // of the host's; empty: it cannot be seen
	own     string // name of this namespace
	initial string // name of the host's namespace
}

// newPIDView looks at the host's processes through host where that is a proc file system of a
// namespace further out than this one.
func newPIDView(root, host string) pidView {
	v := pidView{root: root, initial: initialNamespace}
	v.own, _ = os.Readlink(filepath.Join(root, "self/ns/pid")) // empty: no namespace is the same
	var fs unix.Statfs_t
	if host == "" || unix.Statfs(host, &fs) != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		return v
	}
	if len(namespacePIDs(host, "self")) > len(namespacePIDs(root, "self")) {
		v.host = host
	}
	return v
}

// kinOf tells it of the processes in a record; those that are absent are strangers.
func (v pidView) kinOf(tree processTree, r *gpu.Record) map[int]kin {
	out := map[int]kin{}
	if tree.root == 0 {
		return out
	}
	here := r.PIDNamespace == "" || r.PIDNamespace == v.own
	var mine []int // by the ids that the driver may use
	if here || v.own == v.initial {
		mine = append(mine, tree.members...)
	}
	if !here {
		mine = append(mine, v.inner(tree, r.PIDNamespace)...)
	}
	for i := range r.Devices {
		for _, p := range r.Devices[i].Processes {
			k := v.onHost(tree, p.PID)
			switch {
			case slices.Contains(mine, p.PID):
				k = engines
			case k == stranger && here && v.sees(p.PID):
				k = others
			}
			out[p.PID] = k
		}
	}
	return out
}

func (v pidView) sees(pid int) bool {
	_, err := readStat(v.root, pid)
	return err == nil
}

// inner are the engine's processes by their ids in the reader's namespace, which is further in than
// this one.
func (v pidView) inner(tree processTree, namespace string) (pids []int) {
	for _, m := range tree.members {
		dir := strconv.Itoa(m)
		if is, err := os.Readlink(filepath.Join(v.root, dir, "ns/pid")); err != nil || is != namespace {
			continue
		}
		if all := namespacePIDs(v.root, dir); len(all) > 0 {
			pids = append(pids, all[len(all)-1])
		}
	}
	return pids
}

// onHost tells whose the process of that id on the host is. A process seen from there and from here
// has the same start, and the ids that it has here follow those that it has further out.
func (v pidView) onHost(tree processTree, pid int) kin {
	if v.host == "" {
		return stranger
	}
	is, err := readStat(v.host, pid)
	if err != nil {
		return stranger
	}
	all := namespacePIDs(v.host, strconv.Itoa(pid))
	for _, m := range tree.members {
		here := namespacePIDs(v.root, strconv.Itoa(m))
		s, err := readStat(v.root, m)
		if err == nil && s.started == is.started && len(here) > 0 && len(all) > len(here) && slices.Equal(all[len(all)-len(here):], here) {
			return engines
		}
	}
	return others
}

// namespacePIDs are a process's ids from the namespace of that proc file system inwards.
func namespacePIDs(root, process string) (pids []int) {
	raw, err := os.ReadFile(filepath.Join(root, process, "status"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(raw)) {
		rest, found := strings.CutPrefix(line, "NSpid:")
		if !found {
			continue
		}
		for _, f := range strings.Fields(rest) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return nil
			}
			pids = append(pids, pid)
		}
	}
	return pids
}
