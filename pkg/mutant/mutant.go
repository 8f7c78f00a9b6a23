// Package mutant plants known bugs. Code that upholds an invariant asks On before it checks; the
// answer is the constant false in a normal build, so nothing remains of the question. Built with
// the tag "mutants", a test can switch one bug on and must then see the invariant's own test fail:
// a check counts only after it has caught a deliberate break.
package mutant

// Name of a planted bug, after the invariant that it breaks.
type Name string
