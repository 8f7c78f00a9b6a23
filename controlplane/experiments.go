package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/experiment"
	"github.com/optiinfra/performance-agent/controlplane/sidecar"
	"github.com/optiinfra/performance-agent/pkg/load"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Get implements experiment.Evidence.
func (e evidence) Get(hash string) ([]byte, error) {
	if hash == "" || filepath.Base(hash) != hash {
		return nil, fmt.Errorf("%w: %q", experiment.ErrNoEvidence, hash)
	}
	content, err := os.ReadFile(filepath.Join(e.dir, hash+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", experiment.ErrNoEvidence, hash)
	}
	return content, err
}

// engines translates the hub's errors for tests.
type engines struct{ *sidecar.Hub }

// LoadTest implements experiment.Engines.
func (e engines) LoadTest(ctx context.Context, instanceID string, test *agentv1.LoadTest) ([]byte, error) {
	b, err := e.Hub.LoadTest(ctx, instanceID, test)
	return b, asTest(err)
}

// QualityTest implements experiment.Engines.
func (e engines) QualityTest(ctx context.Context, instanceID string, test *agentv1.QualityTest) ([]byte, error) {
	b, err := e.Hub.QualityTest(ctx, instanceID, test)
	return b, asTest(err)
}

func asTest(err error) error {
	if errors.Is(err, sidecar.ErrTestRefused) {
		return fmt.Errorf("%w: %w", experiment.ErrRefused, err)
	}
	return err
}

// experiments translates the errors of tests for the REST interface.
type experiments struct{ *experiment.Controller }

// Start implements api.Tests.
func (e experiments) Start(ctx context.Context, ask load.Ask, validate bool, key, actor string) (string, error) {
	id, err := e.Controller.Start(ctx, ask, validate, key, actor)
	return id, fromExperiment(err)
}

// Document implements api.Tests.
func (e experiments) Document(id string, reports bool) (*load.Document, error) {
	d, err := e.Controller.Document(id, reports)
	return d, fromExperiment(err)
}

// Export implements api.Tests.
func (e experiments) Export(id, format string) ([]byte, string, error) {
	b, kind, err := e.Controller.Export(id, format)
	return b, kind, fromExperiment(err)
}

// Remove implements api.Tests.
func (e experiments) Remove(ctx context.Context, id, key, actor string) (bool, error) {
	cancelled, err := e.Controller.Remove(ctx, id, key, actor)
	return cancelled, fromExperiment(err)
}

func fromExperiment(err error) error {
	switch {
	case errors.Is(err, experiment.ErrUnknown):
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	case errors.Is(err, experiment.ErrInvalid):
		return fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return err
}
