package e2e

import (
	"slices"
	"testing"

	"github.com/optiinfra/performance-agent/controlplane/api"
)

func (w *world) group(name string) api.Group {
	w.t.Helper()
	var g api.Group
	if err := w.get("/groups/"+name, &g); err != nil {
		w.t.Fatalf("group %s: %v", name, err)
	}
	return g
}

// TestOneReplicaGroup: a change that would take a whole group out of service is refused with the way
// out, and goes through once its operator has accepted the outage.
func TestOneReplicaGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"small": quick, "accepted": quick + alone})
	small, accepted := w.serve("small", 1)[0], w.serve("accepted", 1)[0]

	var refused api.Rollout
	err := w.post("/rollout/start", "", map[string]any{"group": "small", "settings": newSettings()}, &refused)
	words := ""
	if err != nil {
		words = err.Error()
	} else {
		refused = w.waitRollout(refused.ID, "cancelled", "rolled_back")
		words = refused.EndReason
	}
	says(t, words, "group small has one replica", "Add a replica, or set allow_outage in the group's policy")
	w.untouched(t, "small", small)

	r := w.roll("accepted", newSettings())
	r = w.promote(r.ID) // no traffic here: a person passes the waves
	w.waitServing(accepted)
	if got, want := w.starts(accepted), []uint64{0, r.Epoch}; !slices.Equal(got, want) {
		t.Errorf("epochs started: %v, want %v", got, want)
	}
}
