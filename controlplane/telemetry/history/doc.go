// Package history keeps what the fleet measured for days: an in-memory head of compressed samples, in
// Prometheus' chunk encodings, which PromQL reads through storage.Queryable.
//
// A Recorder reads one-second windows and appends a sample per series every ten seconds: counters and
// latencies as totals that only grow, latencies as native histograms, gauges as means. A Head keeps
// these samples for a day, and one of every five minutes for a month; both ages shrink when the memory
// that it may take is used up, oldest samples first. Snapshots carry it over a restart.
//
// Nothing here is replicated. A node's history is of the windows that reached it: the leader's is of
// the whole fleet since it leads, a follower's of its own agents. The long term belongs to the user's
// own Prometheus, which scrapes /metrics, or to an OTLP backend.
package history
