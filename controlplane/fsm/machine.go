package fsm

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Machine is the replicated state with its lock. Readers get copies. It is safe for concurrent use;
// Apply is called by one goroutine at a time, in log order.
type Machine struct {
	mu      sync.RWMutex
	state   *state        // guarded by mu
	changed chan struct{} // guarded by mu; closed and renewed when the state changes
}

// New returns an empty machine.
func New() *Machine {
	return &Machine{state: newState(), changed: make(chan struct{})}
}

// tx is one command being applied.
type tx struct {
	*state
	entry   uint64 // log index
	now     int64  // leader time in Unix milliseconds
	from    uint64 // term of the leader that proposed
	actor   string
	pending []*commandv1.Event
}

// Apply carries out one log entry: a marshalled commandv1.Envelope.
func (m *Machine) Apply(index uint64, raw []byte) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	result := m.state.apply(index, raw)
	if result.Fatal == nil {
		close(m.changed)
		m.changed = make(chan struct{})
	}
	return result
}

func (s *state) apply(index uint64, raw []byte) Result {
	if index <= s.index {
		return Result{Index: index, Fatal: fmt.Errorf("%w: index %d, already at %d", ErrReplayed, index, s.index)}
	}
	var env commandv1.Envelope
	if err := proto.Unmarshal(raw, &env); err != nil {
		return Result{Index: index, Fatal: fmt.Errorf("%w: index %d: %w", ErrCorrupt, index, err)}
	}
	handle, known := handlers[env.GetType()]
	known = known && env.GetVersion() <= envelopeVersion
	if !known && env.GetFlags()&flagIgnorable == 0 {
		return Result{Index: index, Fatal: fmt.Errorf("%w (index %d, type %d, version %d)", ErrUnknownCommand, index, env.GetType(), env.GetVersion())}
	}
	s.index = index
	s.term = max(s.term, env.GetTerm())
	s.clock = max(s.clock, env.GetLeaderTimeMs())
	s.expireDedupe()
	if !known {
		return Result{Index: index}
	}
	if answer, repeated := s.answered(&env); repeated {
		return answer
	}
	t := &tx{state: s, entry: index, now: s.clock, from: env.GetTerm(), actor: env.GetActor()}
	return t.run(&env, handle)
}

// run carries the command out whole or not at all.
func (t *tx) run(env *commandv1.Envelope, handle handler) Result {
	id, refusal := handle(t, env.GetPayload())
	result := Result{Index: t.entry, ObjectID: id, Refusal: refusal}
	if refusal != nil {
		t.rollback()
	} else {
		t.commit()
		t.publish(t.pending)
	}
	t.remember(env, result)
	return result
}

// handler carries out the payload of one command type and names the object it changed.
type handler func(t *tx, payload []byte) (string, *Refusal)

// handle adapts a typed handler.
func handle[M any, P interface {
	*M
	proto.Message
}](f func(t *tx, cmd P) (string, *Refusal)) handler {
	return func(t *tx, payload []byte) (string, *Refusal) {
		cmd := P(new(M))
		if err := proto.Unmarshal(payload, cmd); err != nil {
			return "", refuse(Invalid, "the command's content cannot be read: %v", err)
		}
		return f(t, cmd)
	}
}

var handlers = map[commandv1.CommandType]handler{
	commandv1.CommandType_COMMAND_TYPE_INIT_CLUSTER:          handle((*tx).initCluster),
	commandv1.CommandType_COMMAND_TYPE_PUT_GROUP:             handle((*tx).putGroup),
	commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT:         handle((*tx).agentsReport),
	commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN:    handle((*tx).setOperatorDrain),
	commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT:        handle((*tx).createRollout),
	commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT:          handle((*tx).stepRollout),
	commandv1.CommandType_COMMAND_TYPE_PUT_RECOMMENDATION:    handle((*tx).putRecommendation),
	commandv1.CommandType_COMMAND_TYPE_DECIDE_RECOMMENDATION: handle((*tx).decideRecommendation),
	commandv1.CommandType_COMMAND_TYPE_CREATE_WORKFLOW:       handle((*tx).createWorkflow),
	commandv1.CommandType_COMMAND_TYPE_STEP_WORKFLOW:         handle((*tx).stepWorkflow),
	commandv1.CommandType_COMMAND_TYPE_EFFECT_DONE:           handle((*tx).effectDone),
	commandv1.CommandType_COMMAND_TYPE_LIFT_QUARANTINE:       handle((*tx).liftQuarantine),
	commandv1.CommandType_COMMAND_TYPE_BUMP_INCARNATION:      handle((*tx).bumpIncarnation),
	commandv1.CommandType_COMMAND_TYPE_FORGET_INSTANCE:       handle((*tx).forgetInstance),
	commandv1.CommandType_COMMAND_TYPE_CREATE_EXPERIMENT:     handle((*tx).createExperiment),
	commandv1.CommandType_COMMAND_TYPE_STEP_EXPERIMENT:       handle((*tx).stepExperiment),
	commandv1.CommandType_COMMAND_TYPE_DELETE_EXPERIMENT:     handle((*tx).deleteExperiment),
	commandv1.CommandType_COMMAND_TYPE_PUT_OBJECTIVES:        handle((*tx).putObjectives),
	commandv1.CommandType_COMMAND_TYPE_DELETE_OBJECTIVE:      handle((*tx).deleteObjective),
	commandv1.CommandType_COMMAND_TYPE_RECORD_BUDGETS:        handle((*tx).recordBudgets),
	commandv1.CommandType_COMMAND_TYPE_PUT_VIOLATION:         handle((*tx).putViolation),
	commandv1.CommandType_COMMAND_TYPE_PUT_BUDGET_POLICY:     handle((*tx).putBudgetPolicy),
}
