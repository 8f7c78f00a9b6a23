// Package slo counts what users got against what they were promised: good and bad events of every
// objective, in slots of ten seconds; what is left of each error budget; how fast it burns; when an
// alert fires and a violation begins and ends; what the budgets allow of rollouts, and what a rollout
// has cost of them.
//
// The records (objectives, ledgers, violations, policies) are in fsm, and only the leader counts: every
// five minutes one log entry carries the counts of all objectives. Between two entries the counts are
// in memory, and a new leader counts them again from the windows and the history it has.
//
// Burn rates page people and gate rollouts. They never take a rollout back: at the targets that LLM
// services have they are far too slow. What a rollout may cost at most, the spend cap, does; rollout
// asks for it. Reading and writing OpenSLO is in package openslo.
package slo
