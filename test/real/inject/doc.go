// Package inject does to a running engine what makes services slow in real life: it limits its
// processor time, stops its processes for moments, gives it a busy neighbour, reads its answers
// slowly, and sends it traffic of awkward shapes. Everything it does ends with its context.
package inject
