package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Sentinels of this package.
var (
	// ErrNotLeader: only the leader knows where agents are attached.
	ErrNotLeader = errors.New("this node does not lead, so it cannot send leases or collect")
	// ErrUnknownInstance: no instance with this id has ever attached.
	ErrUnknownInstance = errors.New("no such instance")
	// ErrNotAttached: the instance's agent has no stream to any node now.
	ErrNotAttached = errors.New("the instance's agent is not connected now")
)

// Reasons for ending a stream.
var (
	errBadHello     = errors.New("greeting is not acceptable")
	errWrongCluster = errors.New("agent belongs to another cluster")
	errDuplicate    = errors.New("another process has this agent's identity")
	errNotReady     = errors.New("the control plane has no leader yet; try again in a moment")
	errBusy         = errors.New("too many agents are connecting; try again in a moment")
	errReplaced     = errors.New("the same agent process connected again")
	errSlow         = errors.New("agent does not read what it is sent; connect again")
	errSilent       = errors.New("agent did not answer pings; connect again")
	errStopping     = errors.New("this control-plane node is stopping; connect to another one")
	errNoHello      = errors.New("first message must be Hello")
)

var statusCodes = map[error]codes.Code{
	errBadHello:        codes.InvalidArgument,
	errNoHello:         codes.InvalidArgument,
	errWrongCluster:    codes.PermissionDenied,
	errDuplicate:       codes.AlreadyExists,
	errNotReady:        codes.Unavailable,
	errBusy:            codes.Unavailable,
	errReplaced:        codes.Aborted,
	errSlow:            codes.ResourceExhausted,
	errSilent:          codes.Unavailable,
	errStopping:        codes.Unavailable,
	ErrNotLeader:       codes.FailedPrecondition,
	ErrUnknownInstance: codes.NotFound,
	ErrNotAttached:     codes.Unavailable,
	context.Canceled:   codes.Canceled,
}

// toStatus is the one place where errors become gRPC codes.
func toStatus(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	for target, code := range statusCodes {
		if errors.Is(err, target) {
			return status.Error(code, err.Error())
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

func duplicate(agent string, first *view) error {
	return fmt.Errorf("%w: agent %s is connected from %s (version %s); if that is another machine, one of the two was copied with its data folder: delete agent-id in the copy's data folder and start it again",
		errDuplicate, agent, first.identity.GetHostname(), first.identity.GetVersion())
}
