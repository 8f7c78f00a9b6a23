package probation

import (
	"maps"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Planted bugs of this package, after the invariant that each breaks; see pkg/mutant.
const (
	MutantI4 mutant.Name = "I4" // applies an epoch again when it is offered or resumed again
	MutantI6 mutant.Name = "I6" // a Confirm after the abort brings the epoch back
	MutantI8 mutant.Name = "I8" // takes a merely confirmed epoch for last-known-good
	// MutantI8Disk takes an epoch for last-known-good before that is on disk.
	MutantI8Disk mutant.Name = "I8.disk"

	MutantI9  mutant.Name = "I9"  // executes directives at or below the journaled fence
	MutantI14 mutant.Name = "I14" // stays in rotation while draining, applying, warming, reverting
)

// Phase of the machine.
type Phase = agentv1.Phase

// Phases, under short names.
const (
	Idle        = agentv1.Phase_PHASE_IDLE
	Accepted    = agentv1.Phase_PHASE_ACCEPTED
	Draining    = agentv1.Phase_PHASE_DRAINING
	Applying    = agentv1.Phase_PHASE_APPLYING
	Warming     = agentv1.Phase_PHASE_WARMING
	Probation   = agentv1.Phase_PHASE_PROBATION
	Confirmed   = agentv1.Phase_PHASE_CONFIRMED
	Reverting   = agentv1.Phase_PHASE_REVERTING
	Quarantined = agentv1.Phase_PHASE_QUARANTINED
)

// BaseFingerprint is the launcher's name for the operator's own command line, epoch 0.
const BaseFingerprint = "base"

// Instant is a moment by three clocks. Boot, the time since the machine booted (suspend included),
// orders and measures; BootID says whether two of them may be compared; Wall is for people.
type Instant struct {
	Boot   time.Duration `json:"boot_ns"`
	BootID string        `json:"boot_id"`
	Wall   time.Time     `json:"wall"`
}

// Fence orders directives across leader terms and disaster recovery.
type Fence struct {
	Incarnation uint64 `json:"incarnation"`
	Index       uint64 `json:"index"`
}

// Compare returns -1, 0 or 1 as f is below, at or above g.
func (f Fence) Compare(g Fence) int {
	switch {
	case f == g:
		return 0
	case f.Incarnation < g.Incarnation, f.Incarnation == g.Incarnation && f.Index < g.Index:
		return -1
	}
	return 1
}

// Config is a configuration with its identity. The zero Config is epoch 0 without a body.
type Config struct {
	Epoch    uint64            `json:"epoch"`
	Hash     string            `json:"hash,omitempty"`
	Engine   string            `json:"engine,omitempty"`
	Settings map[string]string `json:"settings,omitempty"` // never modified once set
}

// Fingerprint is what the launcher calls this configuration.
func (c Config) Fingerprint() string {
	if c.Epoch == 0 && c.Hash == "" {
		return BaseFingerprint
	}
	return c.Hash
}

func configOf(epoch uint64, b *agentv1.Body) Config {
	return Config{Epoch: epoch, Hash: fleet.BodyHash(b), Engine: b.GetEngine(), Settings: maps.Clone(b.GetSettings())}
}

// Failure is an epoch that was taken back.
type Failure struct {
	Epoch  uint64 `json:"epoch,omitempty"`
	Reason string `json:"reason,omitempty"`
	Log    string `json:"log,omitempty"` // the engine's last lines
}

// Engine is the launcher's view of the engine process, reduced to what decisions need.
type Engine struct {
	State                launch.State `json:"state"`
	Epoch                uint64       `json:"epoch"`
	Fingerprint          string       `json:"fingerprint"`
	PID                  int          `json:"pid"`
	StartedAt            time.Time    `json:"started_at"`
	Exits                int          `json:"exits"` // nobody asked for, since the last start request
	CommittedEpoch       uint64       `json:"-"`
	CommittedFingerprint string       `json:"-"`
	Error                string       `json:"-"`
}

// EngineOf reduces a launcher's status.
func EngineOf(s launch.Status) Engine {
	return Engine{
		State: s.State, Epoch: s.Current.Epoch, Fingerprint: s.Current.Fingerprint,
		PID: s.PID, StartedAt: s.StartedAt, Exits: s.UnrequestedExits,
		CommittedEpoch: s.Committed.Epoch, CommittedFingerprint: s.Committed.Fingerprint,
		Error: s.Error,
	}
}

func (e Engine) sameProcess(p Engine) bool {
	return e.PID == p.PID && e.StartedAt.Equal(p.StartedAt)
}

// alive: a process exists or is about to.
func (e Engine) alive() bool { return e.State == launch.Running || e.State == launch.Starting }

// Step of a revert.
type Step int

// Steps of a revert, in order.
const (
	StepDrain   Step = iota // out of rotation, waiting for requests in flight
	StepRestore             // the engine is being given the last-known-good configuration
	StepWarm                // waiting for it to serve
)

// Record is what the journal keeps.
type Record struct {
	Instance  string `json:"instance"`
	Group     string `json:"group"`
	ClusterID string `json:"cluster_id,omitempty"`
	// Starts counts the machine's own starts; it is the upper half of report sequences.
	Starts uint64 `json:"starts"`
	Fence  Fence  `json:"fence"`
	// Newest is the newest epoch ever accepted, with its incarnation: none at or below it is
	// accepted again.
	Newest Fence `json:"newest"`

	Phase Phase   `json:"phase"`
	Since Instant `json:"since"` // when the phase began
	// Current is the configuration being tried, from Accepted to Confirmed and while Reverting.
	Current Config `json:"current"`
	Parent  uint64 `json:"parent,omitempty"`
	Hot     bool   `json:"hot,omitempty"` // applied to the running process
	// OfferFence is the fence of the Offer that brought Current.
	OfferFence Fence `json:"offer_fence"`

	ApplyBy     time.Duration `json:"apply_by_ns,omitempty"`    // by the boot clock
	Lease       time.Duration `json:"lease_ns,omitempty"`       // length of the lease
	LeaseUntil  time.Duration `json:"lease_until_ns,omitempty"` // by the boot clock
	Slot        uint32        `json:"slot,omitempty"`
	SlotDelay   time.Duration `json:"slot_delay_ns,omitempty"`
	RevertAt    time.Duration `json:"revert_at_ns,omitempty"` // asked for, waiting for its slot; by the boot clock
	RevertCause string        `json:"revert_cause,omitempty"`
	Step        Step          `json:"step,omitempty"`          // while Reverting
	RestoreBy   time.Duration `json:"restore_by_ns,omitempty"` // while Reverting; by the boot clock
	// Touched: the engine process may have been given Current.
	Touched bool `json:"touched,omitempty"`

	// Before is the engine as it ran when Current was accepted.
	Before Engine `json:"before"`
	// HotProcess and HotEpoch: this process was given another configuration than it was started with.
	HotProcess Engine `json:"hot_process"`
	HotEpoch   uint64 `json:"hot_epoch,omitempty"`

	LKG    Config  `json:"lkg"`
	Failed Failure `json:"failed"`
	// Trouble says why the instance is quarantined.
	Trouble string `json:"trouble,omitempty"`

	Drained     bool   `json:"drained,omitempty"` // by a Drain directive
	DrainReason string `json:"drain_reason,omitempty"`
	DrainEpoch  uint64 `json:"drain_epoch,omitempty"` // being tried when the Drain came
	Cut         int    `json:"cut,omitempty"`         // requests that the last drain cut
	// EmptyIsNormal: the last-known-good answers the probe prompt with an empty text.
	EmptyIsNormal bool `json:"empty_is_normal,omitempty"`
}

// Watch is what the machine has seen since it started; a crash forgets it.
type Watch struct {
	Booted bool
	// Gen counts changes of the engine by the machine itself. Observations carry the Gen at which
	// they were begun; older ones are ignored.
	Gen  uint64
	Busy bool // an engine action is out; its Done will come

	Engine  Engine
	Well    bool   // health and a served token passed
	Why     string // not well, in words
	Healthy int    // healthy answers in a row
	Bad     int    // refused, dead or timed-out answers in a row
	LastBad time.Duration
	Token   bool // a probe token was served since the last start
	// DrainFrom is when the current drain began, and Zeros the readings of no load in a row.
	DrainFrom time.Duration
	Zeros     int
	InFlight  int
	// WellSince is when the instance last became well.
	WellSince time.Duration
	// Committing: a Commit action is out. RetryAt holds back the next attempt of what failed.
	Committing bool
	RetryAt    time.Duration
	// Unwritten says why the journal could not be written; empty once it could.
	Unwritten string
}

// State is all that decisions depend on.
type State struct {
	Record
	Watch Watch
}

// Fresh is the state of an instance that was never managed: epoch 0, idle.
func Fresh(instance, group string) State {
	return State{Record: Record{Instance: instance, Group: group, Phase: Idle, Starts: 1}}
}

// Resume is the state after a crash or restart, from the journaled record. Boot must follow.
func Resume(r Record) State {
	r.Starts++
	return State{Record: r}
}

// Serving reports whether the instance is in rotation, and when not, why.
func (s State) Serving() (bool, string) {
	rotates := s.Phase == Idle || s.Phase == Probation || s.Phase == Confirmed || mutant.On(MutantI14)
	switch {
	case !s.Watch.Booted:
		return false, "the agent has not yet asked the launcher what runs"
	case !rotates && s.Phase == Quarantined:
		return false, "quarantined: " + s.Trouble
	case !rotates:
		return false, phaseWord(s.Phase)
	case s.Watch.Unwritten != "":
		return false, s.Watch.Unwritten
	case s.Drained:
		return false, orElse(s.DrainReason, "drained by the operator")
	case !s.Watch.Well:
		return false, orElse(s.Watch.Why, "the engine has not passed its health probes yet")
	}
	return true, ""
}

// Running is the configuration that the engine runs with or is being started with.
func (s State) Running() Config {
	switch s.Phase {
	case Applying, Warming, Probation, Confirmed:
		return s.Current
	case Reverting:
		if s.Step == StepDrain && s.Touched {
			return s.Current
		}
	}
	return s.LKG
}

// committable is the configuration that a restarted launcher should start.
func (s State) committable() Config {
	if s.Phase == Confirmed {
		return s.Current
	}
	return s.LKG
}

// runs reports whether the engine process has the configuration.
func (s State) runs(c Config, e Engine) bool {
	if s.HotProcess.PID != 0 && s.HotProcess.sameProcess(e) {
		return s.HotEpoch == c.Epoch
	}
	return e.Epoch == c.Epoch && orElse(e.Fingerprint, BaseFingerprint) == c.Fingerprint()
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func phaseWord(p Phase) string {
	switch p {
	case Idle:
		return "idle"
	case Accepted:
		return "accepted a configuration"
	case Draining:
		return "draining"
	case Applying:
		return "applying a configuration"
	case Warming:
		return "warming up"
	case Probation:
		return "on probation"
	case Confirmed:
		return "confirmed"
	case Reverting:
		return "going back to the last known good configuration"
	case Quarantined:
		return "quarantined"
	}
	return "in an unknown phase"
}
