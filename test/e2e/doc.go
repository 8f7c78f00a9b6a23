// Package e2e holds the process tests: the programs as they are built, started as a user starts
// them, killed with kill -9 where it hurts, and asked over REST, readiness and the launcher's socket
// what came of it.
//
// Everything here is real but the engines, which are simulated behind real HTTP. How decisions are
// made is tested in the packages that make them; the fleet under thousands of faults is test/sim's.
// The programs come from the folder in PERF_BIN; without it they are built for the run.
package e2e
