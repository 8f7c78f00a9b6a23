package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

// TestAgentDiskFillsUp: a sidecar that cannot journal takes no new configuration and says why; its
// engine serves on as it was, and the rollout ends as soon as there is space.
func TestAgentDiskFillsUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": quick + alone})
	r := w.add("chat-0", "chat")
	disk := filepath.Join(w.dir, "disk")
	mountTmpfs(t, disk, 0, "size=1m")
	r.data = filepath.Join(disk, "agent")
	w.startLauncher(r)
	w.startAgent(r, agentProgram)
	w.waitServing(r)
	free := fill(t, disk)
	load := w.send(4, r)
	roll := w.roll("chat", newSettings())
	eventually(t, "the refusal is told with its reason", 20*time.Second, func() (bool, string) {
		text := w.rollout(roll.ID).EndReason
		return strings.Contains(text, "chat-0/e: write journal: the disk of") && strings.Contains(text, "is full; free some space"), text
	})
	if s, _ := w.status(r); !s.Serving || s.Phase != "idle" {
		t.Errorf("a full disk took the engine out of rotation: %+v", s)
	}
	free()
	w.waitRollout(roll.ID, "rolled_back")
	w.waitServing(r)
	noneFailed(t, load.end())
	w.untouched(t, "chat", r)
}

// TestControlPlaneDiskFillsUp: a server that cannot write acknowledges nothing and its log says why;
// engines serve on, and it takes changes again once there is space.
func TestControlPlaneDiskFillsUp(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	disk := filepath.Join(dir, "disk")
	mountTmpfs(t, disk, 0, "size=8m")
	w := newWorldIn(t, dir, disk, 1, map[string]string{"chat": quick})
	replicas := w.serve("chat", 2)
	free := fill(t, disk)
	acknowledged, refused := 0, error(nil)
	for refused == nil && acknowledged < 2000 {
		if refused = w.put(acknowledged); refused == nil {
			acknowledged++
		}
	}
	if refused == nil {
		t.Fatalf("%d changes were acknowledged on a full disk", acknowledged)
	}
	says(t, w.nodes[0].process.text(), "the disk of the data folder is full: free some space")
	for _, r := range replicas {
		if s, _ := w.status(r); !s.Serving {
			t.Errorf("%s left rotation: %+v", r.name, s)
		}
	}
	free()
	eventually(t, "changes are taken again", 30*time.Second, func() (bool, string) {
		err := w.put(acknowledged)
		return err == nil, fmt.Sprint(err)
	})
	var groups api.List[api.Group]
	if err := w.get("/groups?limit=1000", &groups); err != nil {
		t.Fatal(err)
	}
	if got, want := len(groups.Items), acknowledged+2; got != want {
		t.Errorf("%d groups are there, want chat and the %d that were acknowledged", got, want-1)
	}
	w.untouched(t, "chat", replicas...)
}

// put makes the n-th of many groups, a change that touches no engine.
func (w *world) put(n int) error {
	return w.call(func(ctx context.Context, c *client.Client) error {
		name := fmt.Sprintf("g%d", n)
		return c.Put(ctx, "/groups/"+name, "put-"+name, map[string]any{"max_unavailable": 1}, nil)
	})
}
