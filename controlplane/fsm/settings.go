package fsm

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// class of a change.
type class struct {
	restart bool // some knob cannot change in a running engine
	lossy   bool // some knob may change what the model answers
}

// checkBody holds a configuration against the knob tables that the group's engines declared, and
// tells what kind of change it is from the group's last-known-good. The adapters beside the engines
// check again, more closely.
func (t *tx) checkBody(g *commandv1.Group, body *agentv1.Body) (class, *Refusal) {
	c, refusal := t.classify(g, body)
	if refusal == nil && c.lossy {
		refusal = t.checkQuality(g, fleet.BodyHash(body), lossyKnobs(t.knobTables(g.GetName()), t.changedKnobs(g, body)))
	}
	return c, refusal
}

// classify is checkBody without the question whether the model's answers are still good.
func (t *tx) classify(g *commandv1.Group, body *agentv1.Body) (class, *Refusal) {
	var c class
	if g.GetEngine() != "" && body.GetEngine() != g.GetEngine() {
		return c, refuse(Invalid, "the configuration is for %s and group %s is made of %s engines", body.GetEngine(), g.GetName(), g.GetEngine())
	}
	tables := t.knobTables(g.GetName())
	if len(tables) == 0 {
		return c, refuse(Conflict, "group %s has no replica that has described its settings; connect one first", g.GetName())
	}
	changed := t.changedKnobs(g, body)
	for _, table := range tables {
		knobs := knobsByName(table)
		for _, name := range slices.Sorted(maps.Keys(body.GetSettings())) {
			if refusal := checkKnob(knobs, table, name, body.GetSettings()[name], changed[name]); refusal != nil {
				return c, refusal
			}
		}
		for name := range changed {
			c.restart = c.restart || !knobs[name].GetHot()
			c.lossy = c.lossy || knobs[name].GetLossy()
		}
	}
	return c, nil
}

// knobTables of the group's members, in order of their hashes.
func (t *tx) knobTables(group string) []*commandv1.KnobTable {
	hashes := map[string]bool{}
	for _, i := range t.members(group) {
		hashes[i.GetKnobTableHash()] = true
	}
	var tables []*commandv1.KnobTable
	for _, h := range slices.Sorted(maps.Keys(hashes)) {
		if table, ok := t.knobs.get(h); ok {
			tables = append(tables, table)
		}
	}
	return tables
}

// changedKnobs compares a configuration with the group's last-known-good. On top of epoch 0, which
// has no body, a knob changes when some replica was started with another value.
func (t *tx) changedKnobs(g *commandv1.Group, body *agentv1.Body) map[string]bool {
	parent := map[string]string{}
	if epoch, ok := t.epochs.get(epochKey(g.GetPromotedEpoch())); ok {
		if b, ok := t.bodies.get(epoch.GetBodyHash()); ok {
			parent = b.GetBody().GetSettings()
		}
	}
	changed := map[string]bool{}
	for name, value := range body.GetSettings() {
		if was, ok := parent[name]; ok && was != value || !ok && t.startedWithout(g.GetName(), name, value) {
			changed[name] = true
		}
	}
	for name := range parent {
		if _, kept := body.GetSettings()[name]; !kept {
			changed[name] = true
		}
	}
	return changed
}

// startedWithout reports whether some replica was started with another value of the knob.
func (t *tx) startedWithout(group, knob, value string) bool {
	return slices.ContainsFunc(t.members(group), func(i *commandv1.Instance) bool { return i.GetBaseSettings()[knob] != value })
}

func knobsByName(table *commandv1.KnobTable) map[string]*enginev1.Knob {
	knobs := map[string]*enginev1.Knob{}
	for _, k := range table.GetDescription().GetKnobs() {
		knobs[k.GetName()] = k
	}
	return knobs
}

func lossyKnobs(tables []*commandv1.KnobTable, changed map[string]bool) []string {
	names := map[string]bool{}
	for _, table := range tables {
		for _, k := range table.GetDescription().GetKnobs() {
			if k.GetLossy() && changed[k.GetName()] {
				names[k.GetName()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// checkKnob refuses a setting that the engine does not know, does not heed or would not accept.
func checkKnob(knobs map[string]*enginev1.Knob, table *commandv1.KnobTable, name, value string, changed bool) *Refusal {
	engine := strings.TrimSpace(table.GetDescription().GetEngine() + " " + table.GetDescription().GetVersion())
	k, known := knobs[name]
	switch {
	case !known:
		return refuse(Invalid, "%s has no setting %q; see the knob table of the group for those it has", engine, name)
	case changed && k.GetIgnoredBecause() != "":
		return refuse(Invalid, "changing %s has no effect on %s: %s", name, engine, k.GetIgnoredBecause())
	case slices.Contains(k.GetValues(), value):
		return nil
	}
	switch k.GetType() {
	case enginev1.KnobType_KNOB_TYPE_INT, enginev1.KnobType_KNOB_TYPE_FLOAT:
		return checkNumber(k, engine, value)
	case enginev1.KnobType_KNOB_TYPE_BOOL:
		if value != "true" && value != "false" {
			return refuse(Invalid, "%s of %s is true or false, not %q", name, engine, value)
		}
	case enginev1.KnobType_KNOB_TYPE_ENUM:
		return refuse(Invalid, "%s of %s is one of %v, not %q", name, engine, k.GetValues(), value)
	}
	return nil
}

func checkNumber(k *enginev1.Knob, engine, value string) *Refusal {
	v, err := strconv.ParseFloat(value, 64)
	if err == nil && k.GetType() == enginev1.KnobType_KNOB_TYPE_INT {
		_, err = strconv.ParseInt(value, 10, 64)
	}
	if err != nil || v != v {
		return refuse(Invalid, "%s of %s is a number, not %q", k.GetName(), engine, value)
	}
	if k.Min != nil && (v < k.GetMin() || v == k.GetMin() && k.GetMinExclusive()) {
		return refuse(Invalid, "%s of %s must be at least %v, not %s", k.GetName(), engine, k.GetMin(), value)
	}
	if k.Max != nil && (v > k.GetMax() || v == k.GetMax() && k.GetMaxExclusive()) {
		return refuse(Invalid, "%s of %s must be at most %v, not %s", k.GetName(), engine, k.GetMax(), value)
	}
	return nil
}
