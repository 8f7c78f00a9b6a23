package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/load"
)

// fakeTests is a struct of what it answers.
type fakeTests struct {
	err      error
	asked    load.Ask
	validate bool
	key      string
}

func (f *fakeTests) Start(_ context.Context, a load.Ask, validate bool, key, _ string) (string, error) {
	f.asked, f.validate, f.key = a, validate, key
	return "t-1", f.err
}

func (f *fakeTests) Document(id string, reports bool) (*load.Document, error) {
	if id != "t-1" {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return &load.Document{ID: id, Kind: "run", Runs: []load.Finished{{Number: 1, Missing: reports}}}, nil
}

func (f *fakeTests) Documents(group string) []load.Document {
	return []load.Document{{ID: "t-1", Group: group, Runs: []load.Finished{}}}
}

func (f *fakeTests) Export(id, format string) ([]byte, string, error) {
	return []byte(id + " as " + format), "text/plain", f.err
}

func (f *fakeTests) Remove(context.Context, string, string, string) (bool, error) {
	return true, f.err
}

func TestTestRoutes(t *testing.T) {
	n, f := &fakeNode{machine: fsm.New(), leader: true}, &fakeTests{}
	srv := httptest.NewServer(New(Config{}, Deps{
		Machine: n.machine, Log: n, Cluster: n, Telemetry: n, Advisor: n, Collector: n, Tests: f, Logger: slog.New(slog.DiscardHandler),
	}))
	t.Cleanup(srv.Close)
	const ask = `{"group":"chat","engine":"e1","settings":{"max_num_seqs":"64"},"load":{"arrivals":"poisson","rate":4,"trace":[{"at_seconds":0,"prompt_tokens":1,"output_tokens":1}]}}`
	if code, out := call(t, http.MethodPost, srv.URL+"/test/validate", ask, "Idempotency-Key", "k"); code != http.StatusOK || out["id"] != "t-1" {
		t.Errorf("%d %v", code, out)
	}
	if f.asked.Group != "chat" || f.asked.Traffic.Rate != 4 || len(f.asked.Traffic.Trace) != 1 || !f.validate || f.key != "k" {
		t.Errorf("asked %+v, validate %v, key %q", f.asked, f.validate, f.key)
	}
	if code, _ := call(t, http.MethodPost, srv.URL+"/api/v1/test/run", `{"group":"chat","load":{}}`); code != http.StatusOK || f.validate {
		t.Errorf("run: %d", code)
	}
	for _, bad := range []string{`{"group":"chat"}`, `{"group":"chat","load":{"arrivals":"waves"}}`, `{"group":"chat","load":{"rate":-1}}`, `{"group":"chat","load":{},"users":1}`} {
		if code, _ := call(t, http.MethodPost, srv.URL+"/test/run", bad); code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", bad, code)
		}
	}
	for err, want := range map[error]int{
		&fsm.Refusal{Code: fsm.Conflict, Message: "it serves users"}: http.StatusConflict,
		fmt.Errorf("%w: no rate", ErrInvalid):                        http.StatusUnprocessableEntity,
		fmt.Errorf("%w: group", ErrNotFound):                         http.StatusNotFound,
		errors.New("disk"):                                           http.StatusInternalServerError,
	} {
		f.err = err
		if code, out := call(t, http.MethodPost, srv.URL+"/test/run", ask); code != want || want == http.StatusConflict && out["detail"] != "it serves users" {
			t.Errorf("%v: %d %v", err, code, out)
		}
	}
	f.err = nil
	if code, out := call(t, http.MethodGet, srv.URL+"/test/results?group=chat", ""); code != http.StatusOK || len(out["items"].([]any)) != 1 {
		t.Errorf("list: %d %v", code, out)
	}
	if code, _ := call(t, http.MethodGet, srv.URL+"/test/results/t-9", ""); code != http.StatusNotFound {
		t.Errorf("unknown: %d", code)
	}
	if code, out := call(t, http.MethodGet, srv.URL+"/test/results/t-1?reports=true", ""); code != http.StatusOK || out["runs"].([]any)[0].(map[string]any)["missing"] != true {
		t.Errorf("one: %d %v", code, out)
	}
	if code, out := call(t, http.MethodDelete, srv.URL+"/test/t-1", ""); code != http.StatusOK || out["cancelled"] != true {
		t.Errorf("delete: %d %v", code, out)
	}
	resp, err := http.Get(srv.URL + "/test/results/t-1/export?format=csv")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || string(raw) != "t-1 as csv" {
		t.Errorf("export: %v, %q as %s", err, raw, resp.Header.Get("Content-Type"))
	}
}
