package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// gpuReader is a program that says a record ten times a second, as perf-gpu does once.
func gpuReader(t *testing.T, record gpu.Record) string {
	t.Helper()
	line, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "perf-gpu")
	script := fmt.Sprintf("#!/bin/sh\nwhile echo '%s'; do sleep 0.1; done\n", line)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func oneGPU() gpu.Record {
	return gpu.Record{Version: gpu.FormatVersion, State: gpu.Sampling, Driver: "999.1", Devices: []gpu.Device{{
		UUID: "GPU-0", Name: "Fake", Reading: gpu.Reading{
			Values:      map[string]float64{gpu.PowerWatts: 301, gpu.EnergyJoules: 5000, gpu.GPMSMActive: .5, "of_a_newer_reader": 1},
			Unavailable: map[string]string{gpu.MIGEnabled: "not supported"},
		},
	}}}
}

func TestGPUsInStatusMetricsAndWindows(t *testing.T) {
	eng, node := &httpEngine{addr: freeAddr(t)}, &nodeServer{addr: freeAddr(t)}
	eng.start(t)
	node.start(t)
	cfg := oneEngine("http://"+eng.addr, node.addr)
	cfg.GPUReader = gpuReader(t, oneGPU())
	s := startSidecar(t, cfg, fakeAdapters{"fake": fakeAdapter{describe: describeFake}})
	eventually(t, "a window with the GPU's power", func() bool {
		return node.sees(func() bool {
			for _, w := range node.windows {
				if w.GetGauges()[fleet.GPUPowerWatts] == 301 && w.GetGauges()[fleet.GPUSMActiveRatio] == .5 {
					return true
				}
			}
			return false
		})
	})
	var st statusReport
	_, raw := s.get(t, "/status")
	if err := json.Unmarshal([]byte(raw), &st); err != nil {
		t.Fatal(err)
	}
	if len(st.GPUs) != 1 || st.GPUs[0].From != gpuLocal || st.GPUs[0].Driver != "999.1" || st.GPUs[0].Problem != "" || st.GPUs[0].AgeMs > 3000 ||
		len(st.GPUs[0].Devices) != 1 || st.GPUs[0].Devices[0].Values[gpu.PowerWatts] != 301 || st.GPUs[0].Devices[0].Unavailable[gpu.MIGEnabled] == "" {
		t.Errorf("status of GPUs: %+v", st.GPUs)
	}
	var sources []string
	for _, one := range st.Engines[0].Sources {
		sources = append(sources, one.Name)
	}
	if !strings.Contains(strings.Join(sources, " "), fleet.SourceGPU) {
		t.Errorf("sources %v", sources)
	}
	_, metrics := s.get(t, "/metrics")
	for _, line := range []string{
		`perf_agent_gpu_observing{from="this agent"} 1`,
		`perf_agent_gpu_power_watts{device="0",from="this agent",uuid="GPU-0"} 301`,
		"# TYPE perf_agent_gpu_energy_joules_total counter",
		"# HELP perf_agent_gpu_power_watts Power drawn.",
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("/metrics lacks %q", line)
		}
	}
}

func TestGPUsAbsent(t *testing.T) {
	eng := &httpEngine{addr: freeAddr(t)}
	eng.start(t)
	cfg := oneEngine("http://" + eng.addr)
	cfg.GPUReader = gpuReader(t, gpu.Record{Version: gpu.FormatVersion, State: gpu.NoLibrary, Problem: "no driver here"})
	s := startSidecar(t, cfg, fakeAdapters{"fake": fakeAdapter{describe: describeFake}})
	eventually(t, "in rotation all the same", func() bool { return s.ready(t) })
	eventually(t, "status says why there is none", func() bool {
		_, raw := s.get(t, "/status")
		var st statusReport
		return json.Unmarshal([]byte(raw), &st) == nil && len(st.GPUs) == 1 && st.GPUs[0].Absent && st.GPUs[0].Problem == "no driver here"
	})
	if _, metrics := s.get(t, "/metrics"); !strings.Contains(metrics, `perf_agent_gpu_observing{from="this agent"} 0`) {
		t.Error("/metrics calls it observed")
	}
}

func TestEnginePort(t *testing.T) {
	for url, want := range map[string]uint16{
		"http://h:8000": 8000, "http://h": 80, "https://h": 443, "https://h:8443": 8443, "http://h:70000": 0, "://": 0,
	} {
		if got := enginePort(Engine{URL: url}); got != want {
			t.Errorf("%s: port %d, want %d", url, got, want)
		}
	}
}

func TestGPUsOff(t *testing.T) {
	cfg := oneEngine("http://127.0.0.1:8000")
	cfg.GPU = gpuOff
	g := newGPUs(cfg, nil)
	if len(g.watchers) != 0 || g.source(cfg.Engines[0], 1) != nil {
		t.Error("GPUs are watched")
	}
	cfg.GPU = "maybe"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), `gpu "maybe"`) {
		t.Errorf("error %v", err)
	}
}

// fakeLauncherSocket answers for the GPU reader alone.
func fakeLauncherSocket(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/gpu", handler)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return path
}

// TestGPUsThroughLauncher: an engine with a launcher is asked there, once for both of its users; the
// others are read beside the agent.
func TestGPUsThroughLauncher(t *testing.T) {
	socket := fakeLauncherSocket(t, func(w http.ResponseWriter, r *http.Request) {
		remote := oneGPU()
		remote.Devices[0].Name = "remote"
		for r.Context().Err() == nil {
			_ = json.NewEncoder(w).Encode(remote) // the client goes: the context tells
			_ = http.NewResponseController(w).Flush()
			time.Sleep(50 * time.Millisecond)
		}
	})
	cfg := oneEngine("http://127.0.0.1:8000")
	cfg.GPUReader = gpuReader(t, oneGPU())
	behind := cfg.Engines[0]
	behind.Name, behind.Launcher = "b", socket
	cfg.Engines = append(cfg.Engines, behind, behind)
	g := newGPUs(cfg, slog.New(slog.DiscardHandler))
	defer g.close()
	if len(g.watchers) != 2 {
		t.Fatalf("%d readers for two places", len(g.watchers))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	g.run(ctx, func(f func() error) { go func() { ended <- f() }() })
	eventually(t, "both places are seen", func() bool {
		s := g.status(time.Now())
		return s[0].Problem == "" && s[1].Problem == "" && s[0].Devices[0].Name == "Fake" && s[1].Devices[0].Name == "remote"
	})
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	var out bytes.Buffer
	tell(&out, examineGPUs(t.Context(), cfg))
	for _, says := range []string{"ok  1 GPUs are seen from this agent, driver 999.1: 0 Fake", "ok  1 GPUs are seen from launcher " + socket, `ok  engine 0: hardware is "Fake"; NVML says 1 × Fake`} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("doctor does not say %q:\n%s", says, out.String())
		}
	}
}

func TestDoctorWithoutGPU(t *testing.T) {
	none := fakeLauncherSocket(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotImplemented)
		_, _ = w.Write([]byte(`{"error":"no GPU reader beside the launcher","code":"no_gpu_reader"}`))
	})
	for name, c := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"off":            {func(c *Config) { c.GPU = gpuOff }, "gpu is off"},
		"no reader":      {func(c *Config) { c.GPUReader = "/nowhere/perf-gpu" }, "there is no GPU reader"},
		"its launcher's": {func(c *Config) { c.Engines[0].Launcher = none }, "there is no GPU reader"},
		"no launcher":    {func(c *Config) { c.Engines[0].Launcher = "/nowhere/s" }, "launcher does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := oneEngine("http://127.0.0.1:8000")
			c.change(&cfg)
			var out bytes.Buffer
			if !tell(&out, examineGPUs(t.Context(), cfg)) {
				t.Error("it would not start")
			}
			if !strings.Contains(out.String(), c.says) || !strings.Contains(out.String(), gpu.Cost) {
				t.Errorf("doctor says:\n%s", out.String())
			}
		})
	}
}
