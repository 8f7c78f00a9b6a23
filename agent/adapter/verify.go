package adapter

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/optiinfra/performance-agent/agent/adapter/manifest"
)

// binary is a plugin's file, opened once.
type binary struct {
	file *os.File
	name string // perf-engine-vllm
	sum  []byte // that it must have; nil: run unverified
}

// open opens a plugin's file and finds out what checksum it must have.
func (h *Host) open(engineName string) (*binary, error) {
	b := &binary{name: manifest.Prefix + engineName}
	path := filepath.Join(h.cfg.Dir, b.name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, h.missing(engineName, path)
	}
	var err error
	if b.sum, err = h.expected(b.name); err != nil {
		return nil, err
	}
	if b.file, err = os.Open(path); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err := h.fit(path, b.file); err != nil {
		_ = b.file.Close()
		return nil, err
	}
	return b, nil
}

func (h *Host) missing(engineName, path string) error {
	have := "none is"
	if names := h.Names(); len(names) > 0 {
		have = strings.Join(names, ", ") + " are"
	}
	return fmt.Errorf("%w: there is no %s for %q (%s installed); run make build, or set the plugin folder", ErrMissing, path, engineName, have)
}

// expected returns the checksum that the signed manifest demands.
func (h *Host) expected(file string) ([]byte, error) {
	if h.cfg.PublicKey == nil {
		if h.cfg.AllowUnsigned {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: no public key is configured to check %s with; "+
			"sign the plugins (perf-agent plugins sign) and name the key, or allow unsigned plugins for development", ErrUntrusted, file)
	}
	if err := manifest.Outside(h.cfg.Dir, h.cfg.Manifest); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	m, err := manifest.Load(h.cfg.Manifest, h.cfg.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; sign the plugins anew (perf-agent plugins sign) or install the manifest that came with them", ErrUntrusted, err)
	}
	sum, ok := m.Sum(file)
	if !ok {
		return nil, fmt.Errorf("%w: %s is not in the manifest %s; sign the plugins anew", ErrUntrusted, file, h.cfg.Manifest)
	}
	return sum, nil
}

// fit refuses files that cannot be run, or that others could change while they run.
func (h *Host) fit(path string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%w: %s is not an executable file; chmod 755 it", ErrMissing, path)
	}
	if h.cfg.PublicKey == nil {
		return nil
	}
	folder, err := os.Stat(h.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	for _, one := range []fs.FileInfo{info, folder} {
		if one.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%w: %s can be written by others (%v); chmod 755 it", ErrUntrusted, one.Name(), one.Mode().Perm())
		}
	}
	return nil
}

// script reports whether the file is run by an interpreter, which opens it after the kernel has
// closed what is to be closed on exec.
func (b *binary) script() bool {
	magic := make([]byte, 2)
	_, err := b.file.ReadAt(magic, 0)
	return err == nil && bytes.Equal(magic, []byte("#!"))
}
