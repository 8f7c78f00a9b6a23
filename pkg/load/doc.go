// Package load describes load tests: what is to be sent, when, and what came of it. The agent that
// sends and the control plane that asks share it, and so does the simulated twin, which sends
// nothing.
//
// It sends nothing and decides nothing: agent/loadtest sends, controlplane/experiment decides.
package load
