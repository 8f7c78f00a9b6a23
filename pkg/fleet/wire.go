package fleet

// Gauges of users' requests that are open as the wire shows them: begun, and neither answered to the
// end nor given up.
const (
	RequestsOpen        = "requests_open"
	RequestsOpenOver1s  = "requests_open_over_1s" // older than a second
	RequestsOpenOver10s = "requests_open_over_10s"
	RequestsOpenOver60s = "requests_open_over_60s"
	// OldestRequestSeconds is the age of the oldest open request, OldestSilentSeconds that of the
	// oldest without a first part of its answer: they grow second by second when an engine hangs.
	OldestRequestSeconds = "oldest_request_seconds"
	OldestSilentSeconds  = "oldest_silent_request_seconds"
)

// StreamChunks counts parts of users' streamed answers that carry text.
const StreamChunks = "stream_chunks"
