// Package rollout changes a group's engines in waves and takes a change back when it hurts.
//
// Next is the pure heart: from a record and an observation it derives the steps to propose. The
// Controller is the small loop around it that runs on the leader: it observes, asks a Judge about
// the wave, proposes steps to the log and renews the leases of replicas on probation. Everything it
// must not forget is in the record, so a new leader resumes by observing again.
//
// The guards that make a step safe against races are in controlplane/fsm and are checked there
// again when the step is applied. What an agent does with its assignment is agent/probation's; the
// statistics of verdicts are behind Judge, of which NonInferiority is the plain one.
package rollout
