//go:build !race

package sim

// raced tells that the race detector slows every run down.
const raced = false
