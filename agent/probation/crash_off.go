//go:build !failpoint

package probation

// crashPoint does nothing in this build; see crash_on.go.
func crashPoint(Phase, bool) {}
