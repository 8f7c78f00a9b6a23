package performanceagent_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/optiinfra/performance-agent/"

// TestArrows holds the package map: proto ← pkg ← agent, proto ← pkg ← controlplane, plugins on
// pkg/engine alone, agent and controlplane strangers to each other, features of the control plane
// strangers to cluster and to one another.
func TestArrows(t *testing.T) {
	for file, imports := range ourImports(t) {
		for _, to := range imports {
			if why := forbidden(filepath.ToSlash(filepath.Dir(file)), to, strings.HasSuffix(file, "_test.go")); why != "" {
				t.Errorf("%s imports %s: %s", file, to, why)
			}
		}
	}
}

// allowedAmongFeatures lists the few imports between control-plane features.
var allowedAmongFeatures = map[string][]string{
	"optimizer": {"analysis"},
	"advisor":   {"optimizer"},
	"workflow":  {"analysis", "optimizer", "experiment", "rollout"},
	// Callers of the REST interface share its types.
	"client": {"api"},
	"demo":   {"api", "client"},
}

func forbidden(from, to string, test bool) string {
	top, rest, _ := strings.Cut(from, "/")
	toTop, toRest, _ := strings.Cut(to, "/")
	switch {
	case top == "test" || top == toTop && top != "controlplane" && top != "plugins" && top != "agent":
		return ""
	case toTop == "test":
		return "only tests under test/ may use test/"
	case toTop == "proto":
		return ""
	}
	switch top {
	case "proto":
		return "proto imports nothing of ours"
	case "pkg":
		return "pkg may use proto and pkg only"
	case "plugins":
		if to == "pkg/engine" || test && strings.HasPrefix(to, "pkg/engine/") {
			return ""
		}
		return "a plugin may use pkg/engine only"
	case "agent":
		if toTop == "pkg" || toTop == "agent" {
			return ""
		}
		return "the agent may use pkg and proto only"
	case "controlplane":
		return controlPlane(rest, to, toTop, toRest)
	}
	return ""
}

func controlPlane(rest, to, toTop, toRest string) string {
	if toTop == "pkg" {
		return ""
	}
	if toTop != "controlplane" {
		return "the control plane may use pkg and proto only"
	}
	feature, _, _ := strings.Cut(rest, "/")
	target, _, _ := strings.Cut(toRest, "/")
	if feature == "" || feature == target || target == "fsm" && feature != "fsm" {
		return "" // main knows everyone; records are for all
	}
	for _, ok := range allowedAmongFeatures[feature] {
		if ok == target {
			return ""
		}
	}
	return "features declare interfaces; only main knows " + to
}

// ourImports parses the imports of every Go file and keeps those of this module.
func ourImports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata" || path == "tools" || path == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if to, ok := strings.CutPrefix(name, module); ok {
				found[path] = append(found[path], to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatal("no imports found: the walk is broken")
	}
	return found
}

// TestArrowsCatch shows that the rules refuse what they should.
func TestArrowsCatch(t *testing.T) {
	for _, c := range []struct {
		from, to string
		test     bool
		ok       bool
	}{
		{"agent/collect", "pkg/stats", false, true},
		{"agent/collect", "controlplane/fsm", false, false},
		{"controlplane/rollout", "controlplane/fsm", false, true},
		{"controlplane/rollout", "controlplane/cluster", false, false},
		{"controlplane/rollout", "controlplane/telemetry", false, false},
		{"controlplane/optimizer", "controlplane/analysis", false, true},
		{"controlplane/fsm", "controlplane/rollout", false, false},
		{"controlplane", "controlplane/cluster", false, true},
		{"plugins/vllm", "pkg/engine", false, true},
		{"plugins/vllm", "pkg/stats", false, false},
		{"plugins/vllm", "pkg/engine/enginetest", false, false},
		{"plugins/vllm", "pkg/engine/enginetest", true, true},
		{"pkg/stats", "agent/collect", false, false},
		{"test/sim", "agent/probation", false, true},
		{"proto/agent/v1", "pkg/fleet", false, false},
	} {
		if got := forbidden(c.from, c.to, c.test) == ""; got != c.ok {
			t.Errorf("%s → %s: allowed %v, want %v", c.from, c.to, got, c.ok)
		}
	}
}
