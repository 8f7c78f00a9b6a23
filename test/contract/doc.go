// Package contract says how a serving engine behaves wherever the product leans on it: a script of
// steps (HTTP calls, signals, looks at pages, logs and processes) that is played to the simulated and
// to the real engine alike. What was seen is a list of facts. testdata/KIND.golden holds those of the
// real engine, recorded by playing the script to it, and both must show them again; for TGI, which
// cannot be installed here, the file is written by hand from what a build of it was seen to do.
//
// Where the simulated engine cannot do as the real one, Differences says so with the reason. A
// difference that has vanished fails the test, so that the list stays true.
package contract
