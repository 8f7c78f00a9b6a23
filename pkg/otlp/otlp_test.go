package otlp

import (
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

func registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gen_ai_server_time_to_first_token_seconds", Help: "h", Buckets: []float64{.1, 1}}, []string{"engine", "gen_ai_request_model"})
	h.WithLabelValues("e", "m").Observe(.5)
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "perf_engine_requests_running", Help: "g"})
	g.Set(3)
	r.MustRegister(h, g)
	return r
}

// check that an export has both metrics under their OpenTelemetry names.
func check(t *testing.T, request *collector.ExportMetricsServiceRequest) {
	t.Helper()
	found := map[string]*metrics.Metric{}
	service := ""
	for _, r := range request.GetResourceMetrics() {
		for _, a := range r.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, s := range r.GetScopeMetrics() {
			for _, m := range s.GetMetrics() {
				found[m.GetName()] = m
			}
		}
	}
	if service != "perf-test" {
		t.Errorf("service is %q", service)
	}
	if g := found["perf_engine_requests_running"].GetGauge().GetDataPoints(); len(g) != 1 || g[0].GetAsDouble() != 3 {
		t.Errorf("gauge %v in %v", g, found)
	}
	h := found["gen_ai.server.time_to_first_token"]
	points := h.GetHistogram().GetDataPoints()
	if len(points) != 1 || points[0].GetCount() != 1 || points[0].GetSum() != .5 || h.GetUnit() != "s" {
		t.Fatalf("histogram %v in %v", h, found)
	}
	attributes := map[string]string{}
	for _, a := range points[0].GetAttributes() {
		attributes[a.GetKey()] = a.GetValue().GetStringValue()
	}
	if attributes["gen_ai.request.model"] != "m" || attributes["engine"] != "e" {
		t.Errorf("attributes %v", attributes)
	}
}

func TestHTTP(t *testing.T) {
	got := make(chan *collector.ExportMetricsServiceRequest, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(r.Body)
		}
		raw, _ := io.ReadAll(body)
		request := &collector.ExportMetricsServiceRequest{}
		if err := proto.Unmarshal(raw, request); err != nil || r.URL.Path != "/v1/metrics" || r.Header.Get("X-Team") != "a" {
			t.Errorf("%s %v: %v", r.URL, r.Header, err)
		}
		got <- request
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Team=a")
	e, err := Start(t.Context(), registry(), "perf-test", "v1", slog.New(slog.DiscardHandler))
	if err != nil || e == nil {
		t.Fatal(e, err)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, <-got)
}

type grpcCollector struct {
	collector.UnimplementedMetricsServiceServer
	got chan *collector.ExportMetricsServiceRequest
}

func (c grpcCollector) Export(_ context.Context, r *collector.ExportMetricsServiceRequest) (*collector.ExportMetricsServiceResponse, error) {
	c.got <- r
	return &collector.ExportMetricsServiceResponse{}, nil
}

func TestGRPC(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	c := grpcCollector{got: make(chan *collector.ExportMetricsServiceRequest, 10)}
	collector.RegisterMetricsServiceServer(server, c)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://"+l.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
	e, err := Start(t.Context(), registry(), "perf-test", "v1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	check(t, <-c.got) // by the interval, not by Close
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOff(t *testing.T) {
	start := func() (*Exporter, error) {
		return Start(t.Context(), registry(), "perf-test", "v1", slog.New(slog.DiscardHandler))
	}
	if e, err := start(); e != nil || err != nil {
		t.Errorf("without variables: %v, %v", e, err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon")
	if _, err := start(); err == nil || !strings.Contains(err.Error(), "carrier pigeon") {
		t.Errorf("an unknown protocol: %v", err)
	}
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	if e, err := start(); e != nil || err != nil {
		t.Errorf("turned off: %v, %v", e, err)
	}
	if err := (*Exporter)(nil).Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCollectorAway: a program starts and ends without its collector.
func TestCollectorAway(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	e, err := Start(t.Context(), registry(), "perf-test", "v1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := e.Close(ctx); err == nil {
		t.Error("nobody took the metrics, yet Close says so")
	}
}
