package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"

	"github.com/optiinfra/performance-agent/agent/adapter"
	"github.com/optiinfra/performance-agent/agent/adapter/manifest"
)

// pluginPublicKey is set by the linker (-X): the key that signed the plugins of this build, base64.
// Empty in plain builds, which then need public_key or allow_unsigned.
var pluginPublicKey string

var _ adapters = (*adapter.Host)(nil)

// newAdapters prepares the plugin host. A plugin that is missing or not trusted is found out when
// it is needed, and said then, because the rest works without it.
func newAdapters(cfg Config, log *slog.Logger) (*adapter.Host, error) {
	key, err := signingKey(cfg.Plugins)
	if err != nil {
		return nil, err
	}
	return adapter.New(adapter.Config{
		Dir: cfg.Plugins.Dir, Manifest: cfg.Plugins.Manifest, PublicKey: key,
		AllowUnsigned: cfg.Plugins.AllowUnsigned, Logger: log,
	}), nil
}

// signingKey is the configured key, the built-in one, or none.
func signingKey(p Plugins) (ed25519.PublicKey, error) {
	switch {
	case p.PublicKey != "":
		return manifest.ReadPublicKey(p.PublicKey)
	case pluginPublicKey != "":
		return builtInKey(pluginPublicKey)
	}
	return nil, nil
}

// builtInKey reads the bare key, or its PKIX form.
func builtInKey(text string) (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("the plugin key built into this program is no base64: %w", err)
	}
	if len(raw) == ed25519.PublicKeySize {
		return raw, nil
	}
	parsed, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("the plugin key built into this program: %w", err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the plugin key built into this program is no Ed25519 key")
	}
	return key, nil
}
