package promapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"go.uber.org/goleak"

	"github.com/optiinfra/performance-agent/controlplane/telemetry/history"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// serve answers over ten minutes of two engines: a counter that grows by 1 and by 3 a second.
func serve(t *testing.T) *httptest.Server {
	h := history.New(history.Config{})
	for sec := 0; sec <= 600; sec += 10 {
		at := noon.Add(time.Duration(sec) * time.Second)
		for engine, rate := range map[string]int{"a": 1, "b": 3} {
			l := labels.FromStrings("__name__", "requests_total", "engine", engine, "group", "g")
			if err := h.Append(l, series.Counter, at, float64(sec*rate)); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Append(labels.FromStrings("__name__", "running", "engine", "a"), series.Gauge, at, float64(sec)); err != nil {
			t.Fatal(err)
		}
	}
	handler := New(h, func() map[string]Metadata {
		return map[string]Metadata{"running": {Type: "gauge", Help: "Requests."}}
	}, "v", slog.New(slog.DiscardHandler))
	handler.now = func() time.Time { return noon.Add(10 * time.Minute) }
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return server
}

func ask(t *testing.T, server *httptest.Server, method, path string, form url.Values) (int, string) {
	t.Helper()
	target, body := server.URL+"/prometheus/api/v1/"+path, io.Reader(nil)
	if method == http.MethodPost {
		body = strings.NewReader(form.Encode())
	} else {
		target += "?" + form.Encode()
	}
	r, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func TestAnswers(t *testing.T) {
	server := serve(t)
	minute := func(n int) string { return fmt.Sprint(noon.Add(time.Duration(n) * time.Minute).Unix()) }
	for _, c := range []struct {
		name, path string
		form       url.Values
		code       int
		want       string
	}{
		{"one plus one", "query", url.Values{"query": {"1+1"}}, 200, `{"resultType":"scalar","result":[1772367000,"2"]}`},
		{"instant", "query", url.Values{"query": {"sum(rate(requests_total[1m]))"}}, 200, `{"resultType":"vector","result":[{"metric":{},"value":[1772367000,"4"]}]}`},
		{"at a time", "query", url.Values{"query": {"running"}, "time": {"2026-03-01T12:05:00Z"}}, 200, `{"resultType":"vector","result":[{"metric":{"__name__":"running","engine":"a"},"value":[1772366700,"300"]}]}`},
		{
			"range", "query_range",
			url.Values{"query": {"sum by (engine) (rate(requests_total[1m]))"}, "start": {minute(5)}, "end": {minute(6)}, "step": {"1m"}},
			200,
			`{"resultType":"matrix","result":[{"metric":{"engine":"a"},"values":[[1772366700,"1"],[1772366760,"1"]]},{"metric":{"engine":"b"},"values":[[1772366700,"3"],[1772366760,"3"]]}]}`,
		},
		{"series", "series", url.Values{"match[]": {`{engine="a"}`, "running"}}, 200, `[{"__name__":"requests_total","engine":"a","group":"g"},{"__name__":"running","engine":"a"}]`},
		{"series of another time", "series", url.Values{"match[]": {"running"}, "start": {minute(60)}, "end": {minute(70)}}, 200, `[]`},
		{"labels", "labels", nil, 200, `["__name__","engine","group"]`},
		{"labels of one", "labels", url.Values{"match[]": {"running"}}, 200, `["__name__","engine"]`},
		{"values", "label/engine/values", nil, 200, `["a","b"]`},
		{"names", "label/__name__/values", nil, 200, `["requests_total","running"]`},
		{"values of some", "label/engine/values", url.Values{"match[]": {`{engine=~"b|c"}`}}, 200, `["b"]`},
		{"limit", "label/engine/values", url.Values{"limit": {"1"}}, 200, `["a"]`},
		{"metadata", "metadata", nil, 200, `{"running":[{"type":"gauge","help":"Requests.","unit":""}]}`},
		{"metadata of nothing", "metadata", url.Values{"metric": {"none"}}, 200, `{}`},
		{"version", "status/buildinfo", nil, 200, `{"version":"v"}`},
		{"exemplars", "query_exemplars", nil, 200, `[]`},

		{"no query", "query", nil, 400, "bad_data"},
		{"broken query", "query", url.Values{"query": {"sum("}}, 400, "bad_data"},
		{"broken time", "query", url.Values{"query": {"1"}, "time": {"noon"}}, 400, "bad_data"},
		{"no start", "query_range", url.Values{"query": {"1"}}, 400, "bad_data"},
		{"backwards", "query_range", url.Values{"query": {"1"}, "start": {minute(2)}, "end": {minute(1)}, "step": {"10"}}, 400, "bad_data"},
		{"no step", "query_range", url.Values{"query": {"1"}, "start": {minute(1)}, "end": {minute(2)}}, 400, "bad_data"},
		{"zero step", "query_range", url.Values{"query": {"1"}, "start": {minute(1)}, "end": {minute(2)}, "step": {"0"}}, 400, "bad_data"},
		{"too fine", "query_range", url.Values{"query": {"1"}, "start": {"0"}, "end": {minute(2)}, "step": {"1"}}, 400, "bad_data"},
		{"no selector", "series", nil, 400, "bad_data"},
		{"broken selector", "labels", url.Values{"match[]": {"{"}}, 400, "bad_data"},
		{"broken limit", "labels", url.Values{"limit": {"-1"}}, 400, "bad_data"},
		{"cannot be executed", "query", url.Values{"query": {"running * on() requests_total"}}, 422, "execution"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			code, body := ask(t, server, method, c.path, c.form)
			var got struct {
				Status, ErrorType, Error string
				Data                     json.RawMessage
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("%s: %v in %s", c.name, err, body)
			}
			text := string(got.Data)
			if c.code != 200 {
				if text = got.ErrorType; got.Error == "" || got.Status != "error" {
					t.Errorf("%s: no error in %s", c.name, body)
				}
			}
			if code != c.code || text != c.want {
				t.Errorf("%s %s: %d\n%s", method, c.name, code, cmp.Diff(c.want, text)+body)
			}
		}
	}
	if code, _ := ask(t, server, http.MethodDelete, "series", nil); code != http.StatusMethodNotAllowed {
		t.Errorf("DELETE series: %d", code)
	}
	if code, _ := ask(t, server, http.MethodGet, "admin/tsdb/snapshot", nil); code != http.StatusNotFound {
		t.Errorf("a route of Prometheus that we do not have: %d", code)
	}
}

// slow is a store that answers when the question is no longer asked.
type slow struct{ storage.Queryable }

func (s slow) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.Queryable.Querier(mint, maxt)
	return slowQuerier{q}, err
}

type slowQuerier struct{ storage.Querier }

func (q slowQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	<-ctx.Done()
	return q.Querier.Select(ctx, sorted, hints, matchers...)
}

func TestTimeout(t *testing.T) {
	server := httptest.NewServer(New(slow{history.New(history.Config{})}, nil, "v", slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	code, body := ask(t, server, http.MethodGet, "query", url.Values{"query": {"running"}, "timeout": {"10ms"}})
	if code != http.StatusServiceUnavailable || !strings.Contains(body, `"errorType":"timeout"`) {
		t.Errorf("%d %s", code, body)
	}
}
