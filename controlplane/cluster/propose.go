package cluster

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// proposeTimeout bounds a proposal whose caller set no deadline.
const proposeTimeout = 10 * time.Second

// Propose commits a command and returns what the state machine answered; a refusal is in the
// result, not in the error. Leader only: the leader stamps its time and term. requestID makes a
// repeated write happen once; actor says in words who asks.
//
// Errors: ErrNotLeader (*NotLeaderError; certainly not written), ErrUnknown (perhaps written;
// repeat with the same request id), fsm.ErrTooLarge, ErrDiskFull, ErrClosed.
func (n *Node) Propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error) {
	if !n.IsLeader() {
		return fsm.Result{}, n.notLeader()
	}
	raw, err := fsm.Encode(typ, payload, requestID, actor, time.Now().UnixMilli(), n.Term())
	if err != nil {
		return fsm.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return fsm.Result{}, err // nothing was written
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	future := n.raft.Apply(raw, time.Second)
	if err := n.await(ctx, future.Error); err != nil {
		return fsm.Result{}, fmt.Errorf("propose %s: %w", typ, n.translate(err))
	}
	result, ok := future.Response().(fsm.Result)
	if !ok {
		return fsm.Result{}, fmt.Errorf("propose %s: %w", typ, ErrUnknown)
	}
	return result, nil
}
