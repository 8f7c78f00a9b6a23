package fsm

import (
	"cmp"
	"regexp"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// groupName keeps names usable in URLs, labels and file names.
var groupName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// DefaultPolicy is what a group gets that nobody has configured.
func DefaultPolicy() *commandv1.Policy {
	return &commandv1.Policy{
		Mode:           commandv1.Mode_MODE_ADVISE,
		MaxUnavailable: 1,
		Reserve:        0.10,
		Steps:          []uint32{5, 25, 50, 100},
		Objectives:     &commandv1.Objectives{},
		ObserveMinMs:   120_000,
		ObserveMaxMs:   600_000,
		BakeMs:         300_000,
		MinRequests:    200,
		ProbationMs:    120_000,
		LeaseEveryMs:   20_000,
		Margin:         1.25,
		HardMargin:     2.0,
		WaveDeadlineMs: 30 * 60_000,
		QuarantineMs:   7 * 24 * 60 * 60_000,
		AllowOutage:    proto.Bool(false),
	}
}

// mergePolicy returns base with the fields of change that are not zero.
func mergePolicy(base, change *commandv1.Policy) *commandv1.Policy {
	p := proto.CloneOf(base)
	if change == nil {
		return p
	}
	p.Mode = cmp.Or(change.GetMode(), p.Mode)
	p.Floor = cmp.Or(change.GetFloor(), p.Floor)
	p.MaxUnavailable = cmp.Or(change.GetMaxUnavailable(), p.MaxUnavailable)
	p.Reserve = cmp.Or(change.GetReserve(), p.Reserve)
	if len(change.GetSteps()) > 0 {
		p.Steps = change.GetSteps()
	}
	o := change.GetObjectives()
	p.Objectives = &commandv1.Objectives{
		TtftSeconds: cmp.Or(o.GetTtftSeconds(), p.GetObjectives().GetTtftSeconds()),
		TpotSeconds: cmp.Or(o.GetTpotSeconds(), p.GetObjectives().GetTpotSeconds()),
		E2ESeconds:  cmp.Or(o.GetE2ESeconds(), p.GetObjectives().GetE2ESeconds()),
	}
	p.ObserveMinMs = cmp.Or(change.GetObserveMinMs(), p.ObserveMinMs)
	p.ObserveMaxMs = cmp.Or(change.GetObserveMaxMs(), p.ObserveMaxMs)
	p.BakeMs = cmp.Or(change.GetBakeMs(), p.BakeMs)
	p.MinRequests = cmp.Or(change.GetMinRequests(), p.MinRequests)
	p.ProbationMs = cmp.Or(change.GetProbationMs(), p.ProbationMs)
	p.LeaseEveryMs = cmp.Or(change.GetLeaseEveryMs(), p.LeaseEveryMs)
	p.Margin = cmp.Or(change.GetMargin(), p.Margin)
	p.HardMargin = cmp.Or(change.GetHardMargin(), p.HardMargin)
	p.WaveDeadlineMs = cmp.Or(change.GetWaveDeadlineMs(), p.WaveDeadlineMs)
	p.QuarantineMs = cmp.Or(change.GetQuarantineMs(), p.QuarantineMs)
	if change.AllowOutage != nil {
		p.AllowOutage = change.AllowOutage
	}
	return p
}

// checkPolicy refuses values that contradict one another.
func checkPolicy(p *commandv1.Policy) *Refusal {
	last := uint32(0)
	for _, step := range p.GetSteps() {
		if step <= last || step > 100 {
			return refuse(Invalid, "steps %v must rise and end at 100 percent", p.GetSteps())
		}
		last = step
	}
	switch {
	case last != 100:
		return refuse(Invalid, "the last of the steps %v must be 100, or part of the group would never get the configuration", p.GetSteps())
	case len(p.GetSteps()) > 20:
		return refuse(Invalid, "%d steps; at most 20 are useful", len(p.GetSteps()))
	case !(p.GetReserve() >= 0 && p.GetReserve() < 10 || p.GetReserve() == -1):
		return refuse(Invalid, "reserve %v is the share of the load that stays free: use a number from 0 to 10, such as 0.1, or -1 not to check the load at all", p.GetReserve())
	case !(p.GetMargin() >= 1.03):
		return refuse(Invalid, "margin %v is below 1.03: sketches are exact to 1 %%, so two sides cannot be told apart more closely", p.GetMargin())
	case !(p.GetHardMargin() > p.GetMargin()):
		return refuse(Invalid, "hard_margin %v must be above margin %v", p.GetHardMargin(), p.GetMargin())
	case p.GetObserveMinMs() < 0 || p.GetObserveMaxMs() < p.GetObserveMinMs():
		return refuse(Invalid, "a wave is observed for at least %d s and at most %d s: raise observe_max or lower observe_min", p.GetObserveMinMs()/1000, p.GetObserveMaxMs()/1000)
	case p.GetLeaseEveryMs() <= 0 || p.GetProbationMs() < 3*p.GetLeaseEveryMs():
		return refuse(Invalid, "probation (%d s) must outlast three leases (lease_every %d s), or one late lease reverts healthy replicas", p.GetProbationMs()/1000, p.GetLeaseEveryMs()/1000)
	case p.GetBakeMs() < 0 || p.GetWaveDeadlineMs() < 0 || p.GetQuarantineMs() < 0:
		return refuse(Invalid, "bake, wave_deadline and quarantine cannot be negative")
	case p.GetWaveDeadlineMs() < p.GetObserveMinMs():
		return refuse(Invalid, "wave_deadline (%d s) ends a wave before observe_min (%d s) has passed", p.GetWaveDeadlineMs()/1000, p.GetObserveMinMs()/1000)
	case p.GetMode() < commandv1.Mode_MODE_ADVISE || p.GetMode() > commandv1.Mode_MODE_AUTO:
		return refuse(Invalid, "mode %d is unknown: use advise, approve or auto", p.GetMode())
	}
	for _, s := range []float64{p.GetObjectives().GetTtftSeconds(), p.GetObjectives().GetTpotSeconds(), p.GetObjectives().GetE2ESeconds()} {
		if !(s >= 0 && s < 1e6) {
			return refuse(Invalid, "objective of %v seconds: use a positive number of seconds", s)
		}
	}
	return nil
}

func (t *tx) initCluster(cmd *commandv1.InitCluster) (string, *Refusal) {
	if t.clusterID != "" {
		return t.clusterID, nil
	}
	if cmd.GetClusterId() == "" {
		return "", refuse(Invalid, "a cluster needs an id")
	}
	t.clusterID, t.incarnation = cmd.GetClusterId(), 1
	t.event("cluster", "", t.clusterID, "cluster %s begins", t.clusterID)
	return t.clusterID, nil
}

func (t *tx) putGroup(cmd *commandv1.PutGroup) (string, *Refusal) {
	g := t.groups.edit(cmd.GetName())
	if cmd.GetIfMatch() != 0 && cmd.GetIfMatch() != g.GetModifyIndex() {
		return "", refuse(PreconditionFailed, "group %s was changed meanwhile (it is at %d, you have %d): read it again", cmd.GetName(), g.GetModifyIndex(), cmd.GetIfMatch())
	}
	if g == nil {
		var refusal *Refusal
		if g, refusal = t.newGroup(cmd.GetName(), cmd.GetEngine()); refusal != nil {
			return "", refusal
		}
	}
	if g.Engine == "" {
		g.Engine = cmd.GetEngine()
	}
	if cmd.GetEngine() != "" && g.Engine != cmd.GetEngine() {
		return "", refuse(Invalid, "group %s is made of %s engines; one group has one kind of engine", g.GetName(), g.GetEngine())
	}
	policy := mergePolicy(g.GetPolicy(), cmd.GetPolicy())
	if refusal := checkPolicy(policy); refusal != nil {
		return "", refusal
	}
	if n := len(t.members(g.GetName())); n > 0 && int(policy.GetFloor()) > n {
		return "", refuse(Invalid, "floor %d is above the %d replicas of group %s: no change could ever be made", policy.GetFloor(), n, g.GetName())
	}
	g.Policy, g.ModifyIndex = policy, t.entry
	t.event("group", g.GetName(), g.GetName(), "%s set the policy of group %s: mode %s, at most %d of its replicas out at once",
		cmp.Or(t.actor, "someone"), g.GetName(), modeName(policy.GetMode()), policy.GetMaxUnavailable())
	return g.GetName(), nil
}

func modeName(m commandv1.Mode) string {
	switch m {
	case commandv1.Mode_MODE_APPROVE:
		return "approve"
	case commandv1.Mode_MODE_AUTO:
		return "auto"
	}
	return "advise"
}

// newGroup adds a group with the default policy and returns it for editing.
func (t *tx) newGroup(name, engine string) (*commandv1.Group, *Refusal) {
	if !groupName.MatchString(name) {
		return nil, refuse(Invalid, "group name %q: use 1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit", name)
	}
	g := &commandv1.Group{Name: name, Engine: engine, Policy: DefaultPolicy(), ModifyIndex: t.entry}
	t.groups.put(name, g)
	return g, nil
}

func (t *tx) setOperatorDrain(cmd *commandv1.SetOperatorDrain) (string, *Refusal) {
	i := t.instances.edit(cmd.GetInstanceId())
	if i == nil {
		return "", refuse(NotFound, "replica %q is unknown", cmd.GetInstanceId())
	}
	if e := t.experimentOn(i.GetId()); e != nil && !cmd.GetDrained() {
		return "", refuse(Locked, "test %s runs on engine %s: cancel it before the engine serves users again", e.GetId(), t.name(i.GetId()))
	}
	if i.GetOperatorDrain() == cmd.GetDrained() {
		return i.GetId(), nil
	}
	i.OperatorDrain, i.OperatorDrainIndex, i.ModifyIndex = cmd.GetDrained(), t.entry, t.entry
	what := "put replica %s back into rotation%s"
	if cmd.GetDrained() {
		what = "took replica %s out of rotation%s"
	}
	t.event("instance", i.GetGroup(), i.GetId(), "%s "+what, cmp.Or(t.actor, "someone"), i.GetId(), because(cmd.GetReason()))
	return i.GetId(), nil
}

// because renders an optional reason.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (t *tx) liftQuarantine(cmd *commandv1.LiftQuarantine) (string, *Refusal) {
	if t.quarantined(cmd.GetGroup(), cmd.GetBodyHash()) == nil {
		return "", refuse(NotFound, "configuration %s is not quarantined in group %s", short(cmd.GetBodyHash()), cmd.GetGroup())
	}
	t.quarantines.remove(quarantineKey(cmd.GetGroup(), cmd.GetBodyHash()))
	t.event("quarantine", cmd.GetGroup(), cmd.GetBodyHash(), "%s lifted the quarantine of configuration %s%s",
		cmp.Or(t.actor, "someone"), short(cmd.GetBodyHash()), because(cmd.GetReason()))
	return cmd.GetBodyHash(), nil
}

// short abbreviates a hash for people.
func short(hash string) string {
	if len(hash) > 12 {
		return hash[:12]
	}
	return hash
}

func (t *tx) bumpIncarnation(cmd *commandv1.BumpIncarnation) (string, *Refusal) {
	t.incarnation++
	t.event("cluster", "", t.clusterID, "%s raised the incarnation to %d: it outranks everything that agents were told before%s",
		cmp.Or(t.actor, "someone"), t.incarnation, because(cmd.GetReason()))
	return t.clusterID, nil
}

func (t *tx) forgetInstance(cmd *commandv1.ForgetInstance) (string, *Refusal) {
	i, ok := t.instances.get(cmd.GetInstanceId())
	if !ok {
		return "", refuse(NotFound, "replica %q is unknown", cmd.GetInstanceId())
	}
	if i.GetReachable() {
		return "", refuse(Conflict, "replica %s is connected: stop its agent first, or it would register again at once", i.GetId())
	}
	t.instances.remove(i.GetId())
	t.event("instance", i.GetGroup(), i.GetId(), "%s removed replica %s", cmp.Or(t.actor, "someone"), i.GetId())
	t.progress(i.GetGroup())
	return i.GetId(), nil
}
