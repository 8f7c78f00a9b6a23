// Package otlp sends what a program shows at /metrics to an OpenTelemetry collector, when the standard
// environment variables say where: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT,
// with all that go with them (…_PROTOCOL, …_HEADERS, …_TIMEOUT, …_COMPRESSION, …_CERTIFICATE,
// OTEL_METRIC_EXPORT_INTERVAL, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME). OTEL_METRICS_EXPORTER=none
// and OTEL_SDK_DISABLED=true turn it off.
package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// Exporter sends metrics at intervals until it is closed. A nil Exporter sends nothing.
type Exporter struct{ provider *metric.MeterProvider }

// Start sends what g gathers, as service of a version. It returns nil where the environment names no
// collector, and an error where what it says cannot be understood. A collector that is away is no
// error: it is logged, and tried again at the next interval.
func Start(ctx context.Context, g prometheus.Gatherer, service, version string, logger *slog.Logger) (*Exporter, error) {
	if !wanted() {
		return nil, nil
	}
	exporter, err := newExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("export by OTLP: %w; check the OTEL_EXPORTER_OTLP_… variables", err)
	}
	attributes, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("export by OTLP: %w; check OTEL_RESOURCE_ATTRIBUTES", err)
	}
	logger = logger.With("component", "otlp")
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("metrics not exported", "error", err) }))
	reader := metric.NewPeriodicReader(exporter, metric.WithProducer(producer{bridge.NewMetricProducer(bridge.WithGatherer(g))}))
	logger.Info("metrics are exported by OTLP", "endpoint", endpoint(), "protocol", protocol())
	return &Exporter{metric.NewMeterProvider(metric.WithReader(reader), metric.WithResource(attributes))}, nil
}

// Close sends what there is once more.
func (e *Exporter) Close(ctx context.Context) error {
	if e == nil {
		return nil
	}
	return e.provider.Shutdown(ctx)
}

func wanted() bool {
	off := strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_METRICS_EXPORTER") == "none"
	return endpoint() != "" && !off
}

func endpoint() string {
	return first("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
}

// protocol is http/protobuf unless said otherwise, as OpenTelemetry's specification advises.
func protocol() string {
	if p := first("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); p != "" {
		return p
	}
	return "http/protobuf"
}

func first(names ...string) string {
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return v
		}
	}
	return ""
}

func newExporter(ctx context.Context) (metric.Exporter, error) {
	switch protocol() {
	case "http/protobuf":
		return otlpmetrichttp.New(ctx)
	case "grpc":
		return otlpmetricgrpc.New(ctx)
	}
	return nil, fmt.Errorf("protocol %q is not known: use http/protobuf or grpc", protocol())
}

// producer gives the bridge's metrics the names that OpenTelemetry's conventions have for them.
type producer struct{ metric.Producer }

// Produce implements metric.Producer.
func (p producer) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	scopes, err := p.Producer.Produce(ctx)
	for _, s := range scopes {
		for i := range s.Metrics {
			rename(&s.Metrics[i])
		}
	}
	return scopes, err
}

func rename(m *metricdata.Metrics) {
	info, known := byName[m.Name]
	if !known {
		return
	}
	m.Unit = info.Unit
	if info.OTel != "" {
		m.Name = info.OTel
	}
	if h, ok := m.Data.(metricdata.Histogram[float64]); ok {
		for i, p := range h.DataPoints {
			h.DataPoints[i].Attributes = conventional(p.Attributes)
		}
	}
}

// conventional names of attributes.
func conventional(s attribute.Set) attribute.Set {
	all := s.ToSlice()
	for i, kv := range all {
		if kv.Key == series.LabelModel {
			all[i].Key = "gen_ai.request.model"
		}
	}
	return attribute.NewSet(all...)
}

var byName = func() map[string]series.Info {
	m := map[string]series.Info{}
	for _, s := range series.All {
		m[s.Name] = s
	}
	return m
}()
