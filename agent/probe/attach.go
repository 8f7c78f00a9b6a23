package probe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// interfaces holds a packet socket per interface. Its filter keeps no packet: the sockets stay
// empty, and nobody reads them.
type interfaces struct {
	program *ebpf.Program
	only    map[string]bool // empty: all
	sockets map[int]int     // file descriptor by interface index
}

func newInterfaces(p *ebpf.Program, only []string) *interfaces {
	s := &interfaces{program: p, only: map[string]bool{}, sockets: map[int]int{}}
	for _, name := range only {
		s.only[name] = true
	}
	return s
}

// scan attaches to interfaces that have come, and lets go of those that went.
func (s *interfaces) scan() error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	present := map[int]bool{}
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || len(s.only) > 0 && !s.only[i.Name] {
			continue
		}
		present[i.Index] = true
		if _, ok := s.sockets[i.Index]; ok {
			continue
		}
		fd, err := s.attach(i)
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		s.sockets[i.Index] = fd
	}
	for index, fd := range s.sockets {
		if !present[index] {
			_ = unix.Close(fd) // nothing was written
			delete(s.sockets, index)
		}
	}
	if len(s.sockets) == 0 {
		return errors.New("no interface is up, or none has the configured name")
	}
	return nil
}

// attach opens a socket that receives nothing before it has its filter. On the loopback each packet
// would be seen twice, so there only incoming ones count.
func (s *interfaces) attach(i net.Interface) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, s.program.FD()); err != nil {
		return -1, fmt.Errorf("attach filter: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1); err != nil {
		return -1, fmt.Errorf("lock filter: %w", err)
	}
	if i.Flags&net.FlagLoopback != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return -1, fmt.Errorf("ignore outgoing packets: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: i.Index}); err != nil {
		return -1, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// networkOrder of a number on a little-endian machine; the object is built for no other.
func networkOrder(n uint16) uint16 { return n<<8 | n>>8 }

// Close lets go of all interfaces.
func (s *interfaces) Close() error {
	for _, fd := range s.sockets {
		_ = unix.Close(fd) // nothing was written
	}
	clear(s.sockets)
	return nil
}

// closers are closed in reverse order.
type closers []io.Closer

// Close closes all and returns the first error.
func (c closers) Close() (err error) {
	for i := len(c) - 1; i >= 0; i-- {
		if e := c[i].Close(); err == nil {
			err = e
		}
	}
	return err
}

// attachCgroup observes the sockets of a control group.
func attachCgroup(path string, in, out *ebpf.Program) (closers, error) {
	var links closers
	for program, way := range map[*ebpf.Program]ebpf.AttachType{in: ebpf.AttachCGroupInetIngress, out: ebpf.AttachCGroupInetEgress} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: way, Program: program})
		if err != nil {
			_ = links.Close()
			return nil, fmt.Errorf("attach to control group %s: %w", path, err)
		}
		links = append(links, l)
	}
	return links, nil
}

// cgroupRoot is where the second version of control groups is mounted.
func cgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if w := strings.Fields(lines.Text()); len(w) > 2 && w[2] == "cgroup2" {
			return w[1], nil
		}
	}
	return "", errors.New("control groups of version 2 are not mounted here")
}
