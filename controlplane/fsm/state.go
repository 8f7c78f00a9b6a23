package fsm

import (
	"cmp"
	"fmt"
	"slices"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// state is everything that is replicated.
type state struct {
	index       uint64 // of the last entry applied
	term        uint64 // of that entry's leader
	clock       int64  // leader time in Unix milliseconds; never goes back
	clusterID   string
	incarnation uint64

	groups          *table[*commandv1.Group]
	instances       *table[*commandv1.Instance]
	knobs           *table[*commandv1.KnobTable]
	bodies          *table[*commandv1.ConfigBody]
	epochs          *table[*commandv1.Epoch]
	rollouts        *table[*commandv1.Rollout]
	quarantines     *table[*commandv1.Quarantine]
	workflows       *table[*commandv1.Workflow]
	recommendations *table[*commandv1.Recommendation]
	effects         *table[*commandv1.Effect]
	dedupe          *table[*commandv1.DedupeRow]
	experiments     *table[*commandv1.Experiment]
	objectives      *table[*commandv1.Objective]
	ledgers         *table[*commandv1.BudgetLedger] // by objective
	budgetPolicies  *table[*commandv1.BudgetPolicy] // by service
	violations      *table[*commandv1.Violation]

	requests []string // request ids of dedupe, oldest first
	events   []*commandv1.Event
}

func newState() *state {
	return &state{
		groups:          newTable[*commandv1.Group](),
		instances:       newTable[*commandv1.Instance](),
		knobs:           newTable[*commandv1.KnobTable](),
		bodies:          newTable[*commandv1.ConfigBody](),
		epochs:          newTable[*commandv1.Epoch](),
		rollouts:        newTable[*commandv1.Rollout](),
		quarantines:     newTable[*commandv1.Quarantine](),
		workflows:       newTable[*commandv1.Workflow](),
		recommendations: newTable[*commandv1.Recommendation](),
		effects:         newTable[*commandv1.Effect](),
		dedupe:          newTable[*commandv1.DedupeRow](),
		experiments:     newTable[*commandv1.Experiment](),
		objectives:      newTable[*commandv1.Objective](),
		ledgers:         newTable[*commandv1.BudgetLedger](),
		budgetPolicies:  newTable[*commandv1.BudgetPolicy](),
		violations:      newTable[*commandv1.Violation](),
	}
}

// capture shares the immutable rows and copies what changes in place.
func (s *state) capture() *state {
	c := *s
	c.groups, c.instances, c.knobs = s.groups.capture(), s.instances.capture(), s.knobs.capture()
	c.bodies, c.epochs, c.rollouts = s.bodies.capture(), s.epochs.capture(), s.rollouts.capture()
	c.quarantines, c.workflows, c.recommendations = s.quarantines.capture(), s.workflows.capture(), s.recommendations.capture()
	c.effects, c.dedupe = s.effects.capture(), s.dedupe.capture()
	c.experiments = s.experiments.capture()
	c.objectives, c.ledgers = s.objectives.capture(), s.ledgers.capture()
	c.budgetPolicies, c.violations = s.budgetPolicies.capture(), s.violations.capture()
	c.requests = append([]string(nil), s.requests...)
	c.events = append([]*commandv1.Event(nil), s.events...)
	return &c
}

// transactional is what commit and rollback need of a table.
type transactional interface {
	commit()
	rollback()
}

func (s *state) tables() []transactional {
	return []transactional{
		s.groups, s.instances, s.knobs, s.bodies, s.epochs, s.rollouts, s.quarantines,
		s.workflows, s.recommendations, s.effects, s.dedupe,
		s.experiments, s.objectives, s.ledgers, s.budgetPolicies, s.violations,
	}
}

func (s *state) commit() {
	for _, t := range s.tables() {
		t.commit()
	}
}

func (s *state) rollback() {
	for _, t := range s.tables() {
		t.rollback()
	}
}

// epochKey orders epochs by number.
func epochKey(id uint64) string { return fmt.Sprintf("%020d", id) }

func quarantineKey(group, bodyHash string) string { return group + "\x00" + bodyHash }

// members of a group in order of their ids. The rows must not be changed.
func (s *state) members(group string) []*commandv1.Instance {
	return s.instances.filter(func(i *commandv1.Instance) bool { return i.GetGroup() == group })
}

// holder is the rollout that holds the group's lock, nil when none does.
func (s *state) holder(group string) *commandv1.Rollout {
	g, ok := s.groups.get(group)
	if !ok || g.GetLockHolder() == "" {
		return nil
	}
	r, _ := s.rollouts.get(g.GetLockHolder())
	return r
}

// quarantined returns the row that forbids the body in the group at the present leader time.
func (s *state) quarantined(group, bodyHash string) *commandv1.Quarantine {
	q, ok := s.quarantines.get(quarantineKey(group, bodyHash))
	if !ok || q.GetUntilMs() <= s.clock {
		return nil
	}
	return q
}

// maxEnded is how many ended rollouts, workflows and decided recommendations a group keeps.
const maxEnded = 100

// forget removes the oldest rows that have ended, so that history does not grow for ever. created
// orders them; the row's key breaks ties.
func forget[T record](t *table[T], ended func(T) bool, created func(T) int64) {
	var old []string
	for _, k := range t.keys() {
		if v, _ := t.get(k); ended(v) {
			old = append(old, k)
		}
	}
	slices.SortStableFunc(old, func(a, b string) int {
		x, _ := t.get(a)
		y, _ := t.get(b)
		return cmp.Compare(created(x), created(y))
	})
	for k := 0; k < len(old)-maxEnded; k++ {
		t.remove(old[k])
	}
}
