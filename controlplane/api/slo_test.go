package api

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// fakePromises stand as they are told to.
type fakePromises struct{ gate *commandv1.BudgetGate }

func (*fakePromises) Standing(*commandv1.Objective) Standing {
	return Standing{State: "met", Budget: Budget{Left: 1}, Alerts: []AlertStanding{}}
}

func (p *fakePromises) Gate(string) *commandv1.BudgetGate { return p.gate }

func (*fakePromises) Spent(*commandv1.Rollout) []*commandv1.BudgetSpend { return nil }

func (*fakePromises) Import(raw []byte) ([]*commandv1.Objective, []string, error) {
	if strings.Contains(string(raw), "broken") {
		return nil, nil, errors.New("line 1: broken")
	}
	return []*commandv1.Objective{{Name: "imported", Group: "chat", Indicator: commandv1.Indicator_INDICATOR_AVAILABILITY, Target: 0.99, PeriodMs: usualPeriod.Milliseconds()}}, []string{"noted"}, nil
}

func (*fakePromises) Export(all []*commandv1.Objective) ([]byte, error) {
	return []byte("kind: SLO # " + all[0].GetName() + "\n"), nil
}

func (*fakePromises) Query(text string) (string, error) {
	if text == "(" {
		return "", errors.New("no PromQL")
	}
	return strings.TrimSpace(text), nil
}

func newPromisingServer(t *testing.T) (*fakeNode, *fakePromises, string) {
	t.Helper()
	n, p := &fakeNode{machine: fsm.New(), leader: true}, &fakePromises{}
	srv := httptest.NewServer(New(Config{Version: "test", NodeID: "cp1", Started: time.Now()}, Deps{
		Machine: n.machine, Log: n, Cluster: n, Telemetry: n, Advisor: n, Promises: p, Collector: n, Logger: slog.New(slog.DiscardHandler),
	}))
	t.Cleanup(srv.Close)
	n.seed(t, 3)
	return n, p, srv.URL
}

const ttftObjective = `{"group":"chat","indicator":"ttft","bound_seconds":0.5,"target":0.95}`

func TestObjectiveRoutes(t *testing.T) {
	n, _, url := newPromisingServer(t)
	status, answer := call(t, http.MethodPut, url+"/slo/chat-first", ttftObjective, "Idempotency-Key", "k-1")
	if status != http.StatusOK || answer["promise"] != "95 % of first tokens come within 0.5 s over 30 d" {
		t.Fatalf("%d %v", status, answer)
	}
	was := n.machine.Index()
	if status, _ := call(t, http.MethodPut, url+"/slo/chat-first", ttftObjective, "Idempotency-Key", "k-1"); status != http.StatusOK || n.machine.Objective("chat-first").GetModifyIndex() > was {
		t.Errorf("repeated: %d", status)
	}
	for _, c := range []struct {
		method, path, body string
		header             []string
		want               int
	}{
		{http.MethodPost, "/slo/configure", `{"name":"second","group":"chat","indicator":"e2e","bound_seconds":9,"target":0.9}`, nil, 200},
		{http.MethodPost, "/slo/configure", `{"name":"q","service":"s","indicator":"query","query":{"good":"a","total":" b "},"target":0.9}`, nil, 200},
		{http.MethodPost, "/slo/configure", `{"name":"q2","service":"s","indicator":"query","query":{"good":"(","total":"b"},"target":0.9}`, nil, 422},
		{http.MethodPost, "/slo/configure", `{"name":"x","group":"chat","indicator":"colour","target":0.9}`, nil, 422},
		{http.MethodPost, "/slo/configure", `{"name":"x","group":"chat","indicator":"ttft","target":0.9}`, nil, 422},
		{http.MethodPut, "/slo/other", `{"name":"another","group":"chat","indicator":"availability","target":0.9}`, nil, 422},
		{http.MethodPut, "/slo/chat-first", ttftObjective, []string{"If-Match", "99999"}, 412},
		{http.MethodGet, "/slo/chat-first", "", nil, 200},
		{http.MethodGet, "/slo/nobody", "", nil, 404},
		{http.MethodGet, "/slo/status?group=chat", "", nil, 200},
		{http.MethodGet, "/slo/budget", "", nil, 200},
		{http.MethodGet, "/slo/violations?open=true", "", nil, 200},
		{http.MethodGet, "/slo/alerts", "", nil, 200},
		{http.MethodPut, "/slo/policy/chat", `{"spend_cap":0.1}`, nil, 200},
		{http.MethodPut, "/slo/policy/chat", `{"restricted_below":0.9}`, nil, 422},
		{http.MethodGet, "/slo/policy/chat", "", nil, 200},
		{http.MethodDelete, "/slo/second", "", []string{"If-Match", "99999"}, 412},
		{http.MethodDelete, "/slo/second", "", nil, 200},
		{http.MethodDelete, "/slo/second", "", nil, 404},
	} {
		if got, answer := call(t, c.method, url+c.path, c.body, c.header...); got != c.want {
			t.Errorf("%s %s: %d, want %d: %v", c.method, c.path, got, c.want, answer)
		}
	}
	if q := n.machine.Objective("q").GetQuery(); q.GetTotal() != "b" {
		t.Errorf("the query was kept as %q", q.GetTotal())
	}
	if p := n.machine.BudgetPolicy("chat"); p.GetSpendCap() != 0.1 || p.GetCarefulBelow() != 0.5 {
		t.Errorf("policy %v", p)
	}
}

func TestObjectiveETag(t *testing.T) {
	_, _, url := newPromisingServer(t)
	call(t, http.MethodPut, url+"/slo/chat-first", ttftObjective)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/slo/chat-first", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if status, answer := call(t, http.MethodDelete, url+"/slo/chat-first", "", "If-Match", resp.Header.Get("ETag")); status != http.StatusOK {
		t.Errorf("the tag %q that was read does not fit: %d %v", resp.Header.Get("ETag"), status, answer)
	}
}

func TestImportObjectives(t *testing.T) {
	n, _, url := newPromisingServer(t)
	send := func(path, text string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/yaml")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := send("/slo/import?dry_run=true", "fine"); got != 200 || n.machine.Objective("imported") != nil {
		t.Errorf("dry run: %d, %v", got, n.machine.Objective("imported"))
	}
	if got := send("/slo/import", "broken"); got != 422 {
		t.Errorf("broken: %d", got)
	}
	if got := send("/slo/import", "fine"); got != 200 || n.machine.Objective("imported") == nil {
		t.Errorf("import: %d, %v", got, n.machine.Objective("imported"))
	}
	if got := textOf(t, url+"/slo/export"); !strings.Contains(got, "kind: SLO # imported") {
		t.Errorf("export: %q", got)
	}
}

func textOf(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestFrozenRollouts: a rollout that the error budget does not allow is refused in words, and starts when it
// is labelled a repair; a repeated request keeps its answer.
func TestFrozenRollouts(t *testing.T) {
	n, p, url := newPromisingServer(t)
	start := func(extra, key string) (int, map[string]any) {
		return call(t, http.MethodPost, url+"/rollout/start", `{"group":"chat","settings":{"max_num_seqs":"64"}`+extra+`}`, "Idempotency-Key", key)
	}
	if status, answer := start("", "early"); status != http.StatusOK {
		t.Fatalf("with nothing promised: %d %v", status, answer)
	}
	p.gate = &commandv1.BudgetGate{Class: commandv1.BudgetClass_BUDGET_CLASS_FROZEN, Reason: "the error budget of objective o is used up"}
	if status, answer := start("", "late"); status != http.StatusConflict || !strings.Contains(answer["detail"].(string), "used up: changes are frozen") {
		t.Errorf("in a freeze: %d %v", status, answer)
	}
	if status, answer := start("", "early"); status != http.StatusOK {
		t.Errorf("repeated in a freeze: %d %v", status, answer)
	}
	if status, answer := start(`,"fix":true`, "fix"); status != http.StatusOK || answer["fix"] != true {
		t.Errorf("a repair in a freeze: %d %v", status, answer)
	}
	if status, _ := call(t, http.MethodPost, url+"/optimize/batch", `{"group":"chat"}`); status != http.StatusOK {
		t.Fatal("no recommendation")
	}
	if status, answer := call(t, http.MethodPost, url+"/optimize/recommendations/p-1/approve", `{}`); status != http.StatusConflict {
		t.Errorf("a recommendation in a freeze: %d %v", status, answer)
	}
	if got := n.machine.Recommendation("p-1").GetStatus(); got != "open" {
		t.Errorf("a recommendation that could not start is %s", got)
	}
	p.gate.Class = commandv1.BudgetClass_BUDGET_CLASS_RESTRICTED
	if status, _ := start("", "risky"); status != http.StatusConflict {
		t.Errorf("a restart with little left: %d", status)
	}
	if status, answer := start(`,"approved":true`, "approved"); status != http.StatusOK || answer["approved_by"] != "operator" {
		t.Errorf("approved: %d %v", status, answer)
	}
}
