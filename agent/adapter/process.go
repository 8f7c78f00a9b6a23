package adapter

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// maxAnswer bounds what a plugin may send in one message.
const maxAnswer = 16 << 20

// process is one running plugin.
type process struct {
	client  *plugin.Client
	cmd     *exec.Cmd
	adapter engine.Adapter
	dir     string // private folder of its socket
	release func() // lets the thread go that started it
}

// start verifies a plugin and runs it.
func (h *Host) start(engineName string, log *slog.Logger) (*process, error) {
	b, err := h.open(engineName)
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.file.Close() }()
	if b.sum == nil {
		log.Warn("plugin runs unverified: no public key is configured")
	}
	path, done := descriptorPath(b, log)
	defer done()
	return h.startBinary(b, path, log)
}

// startBinary runs an opened plugin by the path that names its descriptor.
func (h *Host) startBinary(b *binary, path string, log *slog.Logger) (p *process, err error) {
	p = &process{release: func() {}}
	if p.dir, err = os.MkdirTemp(h.cfg.RunDir, "perf-plugin-"); err != nil {
		return nil, fmt.Errorf("%w: private folder for its socket: %w", ErrStart, err)
	}
	config := h.clientConfig(b, path, p.dir, log)
	p.client, p.cmd = plugin.NewClient(config), config.Cmd
	if p.release, err = startOnOwnThread(p.client, log); err == nil {
		p.adapter, err = dispense(p.client)
	}
	if err != nil {
		p.stop()
		return nil, h.startFault(b, err)
	}
	return p, nil
}

func (h *Host) clientConfig(b *binary, path, dir string, log *slog.Logger) *plugin.ClientConfig {
	config := &plugin.ClientConfig{
		HandshakeConfig:  engine.Handshake(),
		Plugins:          engine.Plugins(nil),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Cmd: &exec.Cmd{
			Path: path, Args: []string{b.name}, Dir: dir, Env: h.environment(dir),
			// A group of its own keeps a terminal's Ctrl-C from it: the agent still needs it while it
			// shuts down. The death signal ends it when the agent is killed.
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
		},
		SkipHostEnv:     true,
		AutoMTLS:        true,
		StartTimeout:    h.cfg.StartTimeout,
		Logger:          newLogger(log),
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer))},
	}
	if b.sum != nil {
		config.SecureConfig = &plugin.SecureConfig{Checksum: b.sum, Hash: sha256.New()}
	}
	return config
}

// environment is all that a plugin gets to see.
func (h *Host) environment(dir string) []string {
	env := map[string]string{
		"PATH":                  "/usr/local/bin:/usr/bin:/bin",
		"LANG":                  "C.UTF-8",
		"TMPDIR":                dir,
		plugin.EnvUnixSocketDir: dir,
	}
	maps.Copy(env, h.cfg.Env)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// descriptorPath names the opened file by its descriptor, so that what is hashed is what is run,
// whatever happens to its name. Call done after the start.
func descriptorPath(b *binary, log *slog.Logger) (path string, done func()) {
	fd, done := int(b.file.Fd()), func() {}
	if b.script() {
		// An interpreter opens the script itself, after exec: its descriptor must survive that.
		// Programs started at the same moment inherit it too; it only lets them read the plugin.
		if kept, err := unix.FcntlInt(b.file.Fd(), unix.F_DUPFD, 100); err == nil {
			fd, done = kept, func() { _ = unix.Close(kept) }
		}
	}
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	if _, err := os.Stat(path); err != nil {
		log.Warn("plugin is started by name, so it could be exchanged between check and start: /proc is not mounted", "error", err)
		return b.file.Name(), done
	}
	return path, done
}

func dispense(c *plugin.Client) (engine.Adapter, error) {
	protocol, err := c.Client()
	if err != nil {
		return nil, err
	}
	raw, err := protocol.Dispense(engine.PluginName)
	if err != nil {
		return nil, err
	}
	a, ok := raw.(engine.Adapter)
	if !ok {
		return nil, fmt.Errorf("it serves %T", raw)
	}
	return a, nil
}

// startFault words why a plugin did not start.
func (h *Host) startFault(b *binary, err error) error {
	if errors.Is(err, plugin.ErrChecksumsDoNotMatch) {
		return fmt.Errorf("%w: %s is not the file that %s lists; reinstall it, or sign the plugins anew if you changed it yourself",
			ErrChanged, b.file.Name(), h.cfg.Manifest)
	}
	return fmt.Errorf("%w: %s: %w", ErrStart, b.file.Name(), err)
}

// stopGrace is what a plugin gets to end by itself.
const stopGrace = 3 * time.Second

// stop ends the plugin and waits for it. go-plugin asks it to end and would wait for the answer for
// ever, so that a plugin which does not move is killed beneath it.
func (p *process) stop() {
	deadline := time.AfterFunc(stopGrace, p.kill)
	p.client.Kill()
	deadline.Stop()
	p.release()
	_ = os.RemoveAll(p.dir)
}

// kill ends the plugin at once; stop must follow.
func (p *process) kill() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill() // it may have ended already
	}
}
