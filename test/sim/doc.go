// Package sim runs the whole rollout loop under faults, in virtual time and from one seed: the
// replicated state machine, the leader's decisions and the agents' probation machines are the real
// ones; the log, the network, launchers, engines, disks, load and operators are models. After every
// event the invariants of rollouts are checked, each by an assertion of its own that reads the
// records and the world rather than the code under test.
//
// A run has two parts. First faults fall: leaders crash between deciding and proposing, messages
// come late, twice, out of order or never, agents crash between any two steps, machines reboot,
// disks fill up, engines fail, operators interfere. Then the faults stop, and everything that was
// begun must come to its end.
//
// Run is a function of its seed. Nothing in it waits, draws other numbers, or does I/O.
//
//	world.go     time, events, the history that a failure prints
//	log.go       the replicated log, terms, proposals and their fates
//	leader.go    decisions of the leader; observe.go what it sees
//	network.go   streams between agents and their node; report.go what the node makes of them
//	agent.go     the agent around the probation machine; engine.go launcher and engine
//	faults.go    what goes wrong; operator.go what people do
//	check.go     invariants of the records; checkagent.go those of agents; rest.go the end
package sim
