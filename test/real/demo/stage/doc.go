// Package stage sets up the product beside real engines, as a user would: a control plane, for each
// replica an engine below its launcher and a sidecar, a gateway that sends only to ready replicas and
// loses no request, and an open-loop load through it. The demo, bar M1r and the tests of the loop
// play on it.
//
// The programs are started from a folder with what `make build` makes; nothing here reaches into
// them.
package stage
