//go:build mutants

package mutant

import "sync/atomic"

// Enabled tells whether this build can plant bugs.
const Enabled = true

var planted atomic.Pointer[Name]

// On reports whether the bug is planted.
func On(n Name) bool {
	p := planted.Load()
	return p != nil && *p == n
}

// Plant switches one bug on until remove is called.
func Plant(n Name) (remove func()) {
	planted.Store(&n)
	return func() { planted.Store(nil) }
}
