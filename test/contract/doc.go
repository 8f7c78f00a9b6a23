// Package contract says how a serving engine behaves wherever the product leans on it: a script of
// steps (HTTP calls, signals, looks at pages, logs and processes) that is played to an engine. What was
// seen is a list of facts. testdata/KIND.golden holds those of the real engine, recorded by playing
// the script to it, and it must show them again.
//
// The simulated engines are not held to these facts yet.
package contract
