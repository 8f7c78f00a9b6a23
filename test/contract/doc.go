// Package contract says how a serving engine behaves wherever the product leans on it: a script of
// steps (HTTP calls, signals, looks at pages, logs and processes) that is played to an engine. What was
// seen is a list of facts. testdata/KIND.golden holds those of the real engine, recorded by playing
// the script to it, and it must show them again.
//
// The simulated engines have to show the same, but for the differences that differences.go names with
// their reasons; a difference that is gone is a failure too. tgi.golden was written by hand.
package contract
