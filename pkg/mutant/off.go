//go:build !mutants

package mutant

// Enabled tells whether this build can plant bugs.
const Enabled = false

// On reports whether the bug is planted: never in this build.
func On(Name) bool { return false }

// Plant does nothing in this build.
func Plant(Name) (remove func()) { return func() {} }
