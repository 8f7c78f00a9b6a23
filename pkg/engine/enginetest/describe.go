package enginetest

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// describe asks about engines that are not there, not ready and not the adapter's.
func (s *suite) describe(t *testing.T) {
	t.Run("nothing known", func(t *testing.T) {
		d := s.mustDescribe(t, &engine.Target{})
		if engine.Recognized(d) {
			t.Errorf("an empty target was recognized from %q", d.GetVersionSource())
		}
		if len(d.GetKnobs()) == 0 || len(d.GetSignals()) == 0 {
			t.Error("the tables of the newest release are missing")
		}
	})
	t.Run("from argv", func(t *testing.T) {
		target := s.target("")
		d := s.mustDescribe(t, target)
		if d.GetVersionSource() != engine.SourceArgv {
			t.Errorf("version source %q, want %q", d.GetVersionSource(), engine.SourceArgv)
		}
		if len(d.GetWarnings()) == 0 {
			t.Error("no warning that the version is not known yet")
		}
		if again := s.mustDescribe(t, target); !proto.Equal(d, again) {
			t.Error("the same target was described in two ways")
		}
	})
	t.Run("refusing server", func(t *testing.T) {
		server := httptest.NewServer(nil)
		server.Close()
		target := s.target("")
		target.BaseUrl = server.URL
		s.mustDescribe(t, target)
	})
	t.Run("hanging server", func(t *testing.T) {
		hang := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
		t.Cleanup(server.Close)
		t.Cleanup(func() { close(hang) })
		target := s.target("")
		target.BaseUrl = server.URL
		start := time.Now()
		s.mustDescribe(t, target)
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("describe took %v before a server that does not answer", took)
		}
	})
	t.Run("someone else", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(stranger))
		t.Cleanup(server.Close)
		d := s.mustDescribe(t, &engine.Target{BaseUrl: server.URL, Argv: []string{"/usr/sbin/stranger", "--serve"}})
		if engine.Recognized(d) {
			t.Errorf("a stranger was recognized from %q", d.GetVersionSource())
		}
	})
	t.Run("caller gone", func(t *testing.T) {
		if _, err := s.adapter.Describe(canceled(t), s.target("")); err == nil {
			t.Error("an ended context was not noticed")
		}
	})
}

// stranger answers every path with JSON that no engine means.
func stranger(w http.ResponseWriter, _ *http.Request) {
	body := `{"version":"9.9.9","object":"list","data":[{"id":"m","owned_by":"stranger"}],"name":"stranger"}`
	_, _ = bytes.NewBufferString(body).WriteTo(w)
}

// apply must answer for each setting and say why when nothing was done.
func (s *suite) apply(t *testing.T) {
	target := s.target(s.newest())
	settings := engine.Settings{"no_such_knob": "1"}
	for _, k := range s.mustDescribe(t, target).GetKnobs() {
		settings[k.GetName()] = k.GetDefaultValue()
	}
	results, err := s.adapter.Apply(t.Context(), target, settings)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	answered := map[string]bool{}
	for _, r := range results {
		answered[r.GetKnob()] = true
		if r.GetApplied() {
			t.Errorf("%s was applied to an engine that does not run", r.GetKnob())
		}
		if r.GetReason() == "" {
			t.Errorf("%s was not applied and nothing says why", r.GetKnob())
		}
	}
	for name := range settings {
		if !answered[name] {
			t.Errorf("%s was not answered for", name)
		}
	}
}
