package probation

import (
	"time"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Event is something that happened: a directive, an observation, the end of an action, time.
type Event interface{ at() Instant }

// Events.
type (
	// Boot is the first event after Fresh or Resume: what the launcher says is running.
	Boot struct {
		Now    Instant
		Engine Engine
	}
	// Tick lets deadlines pass.
	Tick struct{ Now Instant }
	// Directed is a directive from the control plane. Hot and Problem belong to an Offer: whether
	// the adapter can apply it to the running engine, and the words of the adapter or the local
	// allow-list against it.
	Directed struct {
		Now       Instant
		Directive *agentv1.Directive
		Hot       bool
		Problem   string
	}
	// Observed is the launcher's status.
	Observed struct {
		Now    Instant
		Gen    uint64
		Engine Engine
	}
	// Probed is an answer of the engine's health endpoint.
	Probed struct {
		Now    Instant
		Gen    uint64
		Health Health
		Detail string
	}
	// Tokened is an answer to the probe prompt.
	Tokened struct {
		Now    Instant
		Gen    uint64
		Token  Token
		Detail string
	}
	// Loaded is the number of requests in the engine, running and waiting.
	Loaded struct {
		Now      Instant
		Gen      uint64
		InFlight int
	}
	// Trafficked is what the engine did with requests in the last Span, all of it in rotation.
	Trafficked struct {
		Now    Instant
		Gen    uint64
		Sample Sample
	}
	// Fatal is a log line that the adapter calls fatal, in words.
	Fatal struct {
		Now   Instant
		Gen   uint64
		Words string
	}
	// Logged brings the engine's last lines and, when a failure signature matched, its words.
	Logged struct {
		Now   Instant
		Epoch uint64
		Tail  string
		Words string
	}
	// Done ends an engine action (Start, Apply) of this Gen; Err is empty when it worked.
	Done struct {
		Now    Instant
		Gen    uint64
		Engine Engine // as the launcher reports it afterwards
		Err    string
	}
	// Committed ends a Commit action.
	Committed struct {
		Now    Instant
		Config Config
		Err    string
	}
	// Unwritten says that the last Write failed, and so that its state is void.
	Unwritten struct {
		Now Instant
		Err string
	}
)

func (e Boot) at() Instant       { return e.Now }
func (e Tick) at() Instant       { return e.Now }
func (e Directed) at() Instant   { return e.Now }
func (e Observed) at() Instant   { return e.Now }
func (e Probed) at() Instant     { return e.Now }
func (e Tokened) at() Instant    { return e.Now }
func (e Loaded) at() Instant     { return e.Now }
func (e Trafficked) at() Instant { return e.Now }
func (e Fatal) at() Instant      { return e.Now }
func (e Logged) at() Instant     { return e.Now }
func (e Done) at() Instant       { return e.Now }
func (e Committed) at() Instant  { return e.Now }
func (e Unwritten) at() Instant  { return e.Now }

// Health is one answer of the health endpoint.
type Health int

// Answers of the health endpoint.
const (
	Healthy  Health = iota // the engine says it is well
	Dead                   // it answered that it is not
	Refused                // no connection, or it broke
	TimedOut               // no answer within the adapter's own probe timeout
)

// Token is one answer to the probe prompt.
type Token int

// Answers to the probe prompt.
const (
	TokenServed Token = iota // some text, or the engine cannot be asked
	TokenEmpty               // an answer without text
	TokenNaN                 // not a number in the answer
	TokenFailed              // no answer; says nothing about the output
)

// Sample counts requests over a span of time.
type Sample struct {
	Span        time.Duration
	Requests    float64 // ended, failed ones included
	Errors      float64
	Preemptions float64
}

// Action is something the driver must do, in the order given.
type Action interface{ action() }

// Actions. When Write is among them it is the first, and the others must not be begun before the
// record is safe on disk; when it cannot be written the new state is void, and so are they.
type (
	// Write journals the new state's Record.
	Write struct{}
	// Start restarts the engine with a configuration (epoch 0: the operator's own command line).
	// Restore marks the way back; Force a process that was changed while it ran, so that it must be
	// replaced even when the launcher thinks it runs just that configuration.
	Start struct {
		Gen            uint64
		Config         Config
		Restore, Force bool
	}
	// Apply changes the running engine from one configuration to another.
	Apply struct {
		Gen      uint64
		From, To Config
		Restore  bool
	}
	// Commit makes a configuration the one that a restarted launcher starts.
	Commit struct{ Config Config }
	// FetchLog asks for a Logged event.
	FetchLog struct{ Epoch uint64 }
	// Reply answers the directive of this event.
	Reply struct {
		Result agentv1.AckResult
		Detail string
	}
)

func (Write) action()    {}
func (Start) action()    {}
func (Apply) action()    {}
func (Commit) action()   {}
func (FetchLog) action() {}
func (Reply) action()    {}

// Limits are the numbers that decisions use. The zero value of a field means its default.
type Limits struct {
	Settle          time.Duration // out of rotation → balancers have noticed; 2 s
	DrainLimit      time.Duration // longest drain, Settle included; 60 s
	Probation       time.Duration // lease length when the Offer has none; 120 s
	RestartEstimate time.Duration // start to serving; 5 min
	WarmProbes      int           // healthy answers in a row before serving; 3
	BadProbes       int           // refused or dead answers in a row that make it dead; 3
	BadSpacing      time.Duration // least distance between two that count; 500 ms
	ZeroReadings    int           // readings of no load in a row that end a drain; 2
	ErrorRate       float64       // share of failed requests above which the guard fires; 0.5
	ErrorRequests   float64       // requests below which it does not; 10
	// A preemption storm is at least StormPreemptions within a sample and StormPerRequest or more
	// for each request that ended in it: the engine recomputes more than it finishes. 20 and 2.
	StormPreemptions float64
	StormPerRequest  float64
}

// WithDefaults returns the limits with zero fields set to their defaults.
func (l Limits) WithDefaults() Limits {
	def(&l.Settle, 2*time.Second)
	def(&l.DrainLimit, 60*time.Second)
	def(&l.Probation, 120*time.Second)
	def(&l.RestartEstimate, 5*time.Minute)
	def(&l.WarmProbes, 3)
	def(&l.BadProbes, 3)
	def(&l.BadSpacing, 500*time.Millisecond)
	def(&l.ZeroReadings, 2)
	def(&l.ErrorRate, 0.5)
	def(&l.ErrorRequests, 10)
	def(&l.StormPreemptions, 20)
	def(&l.StormPerRequest, 2)
	return l
}

func def[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}
