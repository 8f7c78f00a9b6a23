// Package probation changes the configuration of one engine and takes it back when it hurts, with
// or without a control plane.
//
// Its heart is pure: Next maps a State and an Event to the next State and the Actions to carry
// out. Time arrives in events, never from a clock; what must survive a crash is the Record inside
// the State, and an Action named Write says when it has to be on disk before anything else
// happens. Machine is the driver around it: it journals, talks to the launcher, the adapter and the
// engine, and turns what it sees into events.
//
//	Idle(LKG=e0) → Accepted(e1) → Draining → Applying → Warming → Probation → Confirmed(e1, LKG still e0)
//	Confirmed --Promote--> Idle(LKG=e1)
//	Accepted…Confirmed --revert | deadline | local guard | crash loop--> Reverting → Idle(LKG=e0, failed=e1)
//	Reverting --LKG will not start--> Quarantined
//
// LKG is the last-known-good configuration: the newest promoted one, or epoch 0, the engine as the
// operator started it. An instance is in rotation only in Idle, Probation and Confirmed, while it
// is well and nobody drained it.
//
// To simulate an agent: begin with Fresh, or with Resume of a decoded record, and feed Boot. After
// each Next, stop if the agent is to crash before journaling; store Encode of the new Record when
// Write is the first action; then carry out the others in order and feed Done and Committed for
// them, or crash anywhere in between: drop State, actions and their ends, keep the stored bytes.
// Observations carry the State's Watch.Gen of when they were begun.
//
// The package leaves to others: how processes are started (launch), which settings an engine
// understands (its adapter), what to measure (scrape, collect), and every judgement that needs
// statistics or the fleet (the control plane).
package probation
