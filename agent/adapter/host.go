// Package adapter is the host of engine plugins: it verifies a plugin, starts it with nothing of
// the agent's environment, and keeps it answering. What an engine's flags and metrics mean is the
// plugin's business, what to do with them the caller's.
//
// A plugin runs only if its SHA-256 is in a signed manifest outside the plugin folder. The file is
// opened once, hashed and executed through that one descriptor, so that it cannot be exchanged in
// between. It talks to the host over a Unix socket in a private folder, with mutual TLS; it gets no
// secrets, gains no privileges, and dies with the host.
package adapter

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/agent/adapter/manifest"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// Why a plugin does not answer. Each comes wrapped in words for the operator.
var (
	// ErrMissing: there is no such plugin.
	ErrMissing = errors.New("engine adapter is missing")
	// ErrUntrusted: the plugin cannot be verified; it was not started.
	ErrUntrusted = errors.New("engine adapter is not trusted")
	// ErrChanged: the plugin is not the one in the manifest; it was not started.
	ErrChanged = errors.New("engine adapter was changed")
	// ErrStart: it was started and did not become an engine adapter.
	ErrStart = errors.New("engine adapter did not start")
	// ErrSilent: it did not answer a call in time; it was ended.
	ErrSilent = errors.New("engine adapter does not answer")
	// ErrEnded: it ended, or keeps ending, by itself.
	ErrEnded = errors.New("engine adapter ended")
	// ErrUnknownEngine: no installed adapter recognizes the engine.
	ErrUnknownEngine = errors.New("no engine adapter recognizes the engine")
	// ErrClosed: the host was closed.
	ErrClosed = errors.New("the adapter host is closed")
)

// Config of a Host.
type Config struct {
	// Dir holds the plugins, perf-engine-<engine>.
	Dir string
	// Manifest is the signed list of plugins; it must lie outside Dir.
	Manifest string
	// PublicKey that the manifest is signed with. Without one, plugins are refused.
	PublicKey ed25519.PublicKey
	// AllowUnsigned runs plugins unverified where there is no PublicKey: for development.
	AllowUnsigned bool
	// Env is what plugins get beside the little that the host sets itself. No secrets.
	Env map[string]string
	// RunDir is where the private socket folders are made; the system's temporary folder when
	// empty. Socket paths are limited to about 100 bytes.
	RunDir string
	// StartTimeout, CallTimeout and Backoff are 10 s, 10 s and 1 s when zero. Backoff is the wait
	// after the second failure in a row; it doubles up to a minute.
	StartTimeout time.Duration
	CallTimeout  time.Duration
	Backoff      time.Duration
	// Idle is how long a plugin stays that is not called, 2 min when zero. The next call starts it.
	Idle   time.Duration
	Logger *slog.Logger
}

// Host starts plugins when they are first needed and again when they ended, and ends those that nobody
// needs. It is safe for
// concurrent use. Close it to end them.
type Host struct {
	cfg Config
	log *slog.Logger

	mu        sync.Mutex // guards what follows
	instances map[string]*instance
	closed    bool
}

// New returns a host that has started nothing.
func New(cfg Config) *Host {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 10 * time.Second
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = 10 * time.Second
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Second
	}
	if cfg.Idle == 0 {
		cfg.Idle = 2 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Host{cfg: cfg, log: cfg.Logger.With("component", "adapter"), instances: map[string]*instance{}}
}

// Names of the engines for which a plugin is installed, sorted.
func (h *Host) Names() []string {
	files, _ := filepath.Glob(filepath.Join(h.cfg.Dir, manifest.Prefix+"*")) // the pattern is sound
	var names []string
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			names = append(names, strings.TrimPrefix(filepath.Base(file), manifest.Prefix))
		}
	}
	return names
}

// Adapter returns the adapter for an engine, started and verified. It stays usable until the host
// is closed: when its plugin ends, the next call starts it again.
func (h *Host) Adapter(ctx context.Context, name string) (engine.Adapter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	i, err := h.instance(name)
	if err != nil {
		return nil, err
	}
	if err := i.verified(); err != nil {
		return nil, err
	}
	return i, nil
}

// Detect asks each installed adapter about a target and returns the first that recognizes it. A
// plugin that cannot be used does not keep the others from being asked.
func (h *Host) Detect(ctx context.Context, t *engine.Target) (engine.Adapter, *engine.Description, error) {
	var faults []error
	for _, name := range h.Names() {
		a, err := h.Adapter(ctx, name)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		d, err := a.Describe(ctx, t)
		switch {
		case err != nil:
			faults = append(faults, err)
		case engine.Recognized(d):
			return a, d, nil
		}
	}
	tried := "none is installed in " + h.cfg.Dir + "; make build puts them in bin/plugins"
	if names := h.Names(); len(names) > 0 {
		tried = "asked " + strings.Join(names, ", ")
	}
	return nil, nil, errors.Join(append([]error{fmt.Errorf("%w: %s; name the engine in the configuration", ErrUnknownEngine, tried)}, faults...)...)
}

// Close ends all plugins and waits for them.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	all := slices.Collect(maps.Values(h.instances))
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, i := range all {
		wg.Go(i.close)
	}
	wg.Wait()
	return nil
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func (h *Host) instance(name string) (*instance, error) {
	if !nameForm.MatchString(name) {
		return nil, fmt.Errorf("%w: %q is not an engine's name (lower-case letters, digits, dashes)", ErrMissing, name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if h.instances[name] == nil {
		h.instances[name] = &instance{host: h, name: name, log: h.log.With("adapter", name)}
	}
	return h.instances[name], nil
}
