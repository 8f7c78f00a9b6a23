// Package fsm is the replicated state machine: the records that every control-plane node holds
// (groups, instances, configuration bodies, epochs, rollouts, workflows, recommendations), the
// commands that change them, and snapshots of them. Records and commands are the messages of
// proto/command/v1.
//
// Apply is a function of the state and the command alone: no clock, no randomness, no I/O, no
// iteration over maps that reaches a record. Time is the leader's, taken from the envelope, and
// never goes back. A refused command leaves no trace but its dedupe row.
//
// The guards of the rollout machine live here, because only here can two commands not race. What
// to propose next is decided in controlplane/rollout; how entries reach a majority is the business
// of controlplane/cluster; pushing directives, which DirectiveFor derives from the state, is that
// of controlplane/sidecar.
package fsm
