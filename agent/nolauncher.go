package main

import (
	"context"
	"errors"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
)

// errObserveOnly answers what would need a launcher.
var errObserveOnly = errors.New("this engine has no launcher (launcher: is not set), so it is observed only")

// noLauncher stands in where the operator starts the engine himself: the engine is taken as running
// with his own command line, and never changed.
type noLauncher struct{}

var _ probation.Launcher = noLauncher{}

func (noLauncher) Status(context.Context) (launch.Status, error) {
	base := launch.Spec{Fingerprint: probation.BaseFingerprint}
	return launch.Status{State: launch.Running, Current: base, Base: base, Committed: base}, nil
}

func (noLauncher) Restart(context.Context, launch.Spec) (launch.Status, error) {
	return launch.Status{}, errObserveOnly
}

func (noLauncher) Stop(context.Context, time.Duration) (launch.Status, error) {
	return launch.Status{}, errObserveOnly
}

func (noLauncher) Commit(context.Context, launch.Spec) (launch.Status, error) {
	return launch.Status{}, errObserveOnly
}

func (noLauncher) Log(context.Context, uint64) (launch.Log, error) {
	return launch.Log{}, errObserveOnly
}

// allowNothing is the allow-list of an engine without a launcher.
func allowNothing(probation.Config) string { return errObserveOnly.Error() }
