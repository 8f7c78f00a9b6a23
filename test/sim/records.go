package sim

import (
	"cmp"
	"slices"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// records are copies of what the machine says, read once after each entry. They must not be changed.
type records struct {
	groups    map[string]*commandv1.Group
	members   map[string][]*commandv1.Instance // by group
	instances map[string]*commandv1.Instance
	open      []*commandv1.Rollout
	ended     []*commandv1.Rollout // by the last entry
}

// read the machine after an entry.
func (w *world) read() {
	old := w.rec
	w.rec = records{
		groups: map[string]*commandv1.Group{}, members: map[string][]*commandv1.Instance{},
		instances: map[string]*commandv1.Instance{}, open: w.machine.OpenRollouts(),
	}
	for _, g := range w.groups {
		w.rec.groups[g.name] = w.machine.Group(g.name)
	}
	for _, i := range w.machine.Instances("") {
		w.rec.members[i.GetGroup()] = append(w.rec.members[i.GetGroup()], i)
		w.rec.instances[i.GetId()] = i
	}
	for _, r := range old.open {
		if !slices.ContainsFunc(w.rec.open, func(o *commandv1.Rollout) bool { return o.GetId() == r.GetId() }) {
			w.rec.ended = append(w.rec.ended, w.machine.Rollout(r.GetId()))
		}
	}
}

// rollout by id among the open ones and those that the last entry ended.
func (r records) rollout(id string) *commandv1.Rollout {
	for _, all := range [][]*commandv1.Rollout{r.open, r.ended} {
		for _, o := range all {
			if o.GetId() == id {
				return o
			}
		}
	}
	return nil
}

// first reports whether no older rollout waits for the same group.
func (r records) first(of *commandv1.Rollout) bool {
	for _, o := range r.open {
		older := cmp.Or(cmp.Compare(o.GetCreatedMs(), of.GetCreatedMs()), cmp.Compare(o.GetId(), of.GetId())) < 0
		if o.GetGroup() == of.GetGroup() && o.GetEpoch() == 0 && older {
			return false
		}
	}
	return true
}

// holder is the rollout that holds a group, nil when none does.
func (r records) holder(group string) *commandv1.Rollout {
	for _, o := range r.open {
		if o.GetId() == r.groups[group].GetLockHolder() {
			return o
		}
	}
	return nil
}
