package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// recording is what a real sidecar sent of one engine under one load: its description, and windows
// second by second.
type recording struct {
	rate    float64 // requests per second
	engine  *agentv1.EngineInfo
	windows []*agentv1.Window
	bytes   int      // of a window on the wire, on average
	wire    [][]byte // windows without instance and start
}

// p2Record is how many seconds are recorded of each engine: more than telemetry compresses together,
// so that no compressed block repeats itself.
const p2Record = 36

// recordWindows runs a node agent beside simulated engines, one for each load, and keeps what it sends.
func recordWindows(ctx context.Context, p *programs, rates []float64) ([]*recording, error) {
	ports, err := freePorts(len(rates) + 1)
	if err != nil {
		return nil, err
	}
	all := make([]*recording, len(rates))
	var started []*program
	engines := ""
	for i, rate := range rates {
		all[i] = &recording{rate: rate}
		engines += fmt.Sprintf("  - {name: %q, group: bar, engine: vllm, url: \"http://%s\", hardware: h100-sxm}\n", strconv.Itoa(i), loopback(ports[i]))
		c, err := p.start("engine-"+strconv.Itoa(i), nil, "perf-agent", "sim-engine", "--dialect", "vllm", "--sim-start-scale", "0.02", "--",
			"vllm", "serve", "llama-3.1-8b", "--host", "127.0.0.1", "--port", strconv.Itoa(ports[i]))
		if err != nil {
			return nil, err
		}
		started = append(started, c)
	}
	r, err := listenRecorder(all)
	if err != nil {
		return nil, err
	}
	defer r.server.Stop()
	url := "http://" + loopback(ports[len(rates)])
	file, err := p.write("recorded.yaml", fmt.Sprintf("agent_id: recorded\ndata_dir: %s\nlisten: %s\ncontrol_plane: [%q]\nengines:\n%s",
		p.file("recorded"), loopback(ports[len(rates)]), r.addr, engines))
	if err != nil {
		return nil, err
	}
	agent, err := p.start("recorded", nil, "perf-agent", "run", "--config", file)
	if err != nil {
		return nil, err
	}
	started = append(started, agent)
	if err := p.wait(ctx, "the engines to be recorded", time.Minute, func(ctx context.Context) bool { return answers(ctx, url+"/ready") }); err != nil {
		return nil, err
	}
	for i, rate := range rates {
		c, err := p.start("clients-"+strconv.Itoa(i), nil, "perf-agent", "bench", "--target", "http://"+loopback(ports[i]), "--rate", fmt.Sprint(rate), "--duration", "5m")
		if err != nil {
			return nil, err
		}
		started = append(started, c)
	}
	r.begin(time.Now().Add(8 * time.Second)) // until as many requests end as begin
	if err := p.wait(ctx, "the recording", 2*time.Minute, r.complete); err != nil {
		return nil, err
	}
	p.end(started)
	return all, errors.Join(finish(all)...)
}

// finish a recording: GPUs, and the form in which windows are sent again.
func finish(all []*recording) (faults []error) {
	for _, r := range all {
		if r.engine == nil {
			faults = append(faults, fmt.Errorf("the engine with %v requests a second was never described", r.rate))
			continue
		}
		random := rand.New(rand.NewPCG(2, uint64(r.rate)))
		for _, w := range r.windows {
			addGPU(w, random)
			w.InstanceId, w.StartUnixMs = "", 0
			raw, err := proto.Marshal(w)
			faults = append(faults, err)
			r.wire = append(r.wire, raw)
			r.bytes += len(raw) / len(r.windows)
		}
	}
	return faults
}

// window is the i-th window, from the start again after the last, as one of an instance at a time. Of
// a message that is the concatenation of two, the second completes the first.
func (r *recording) window(i int, instance string, start time.Time) []byte {
	w := r.wire[i%len(r.wire)]
	b := make([]byte, 0, len(w)+len(instance)+16)
	b = append(b, w...)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, instance)
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(start.UnixMilli()))
}

// addGPU adds what a GPU would tell, as this machine has none: the names that every window of an engine
// on a GPU has, with values as finely divided as the driver gives them.
func addGPU(w *agentv1.Window, r *rand.Rand) {
	if _, has := w.GetGauges()[fleet.GPUCount]; has {
		return
	}
	if w.Gauges == nil {
		w.Gauges = map[string]float64{}
	}
	if w.Counters == nil {
		w.Counters = map[string]float64{}
	}
	percent := func() float64 { return float64(r.IntN(101)) / 100 }
	for name, v := range map[string]float64{
		fleet.GPUCount: 1, fleet.GPULost: 0, fleet.GPUAttributed: 1,
		fleet.GPUUtilizationRatio: percent(), fleet.GPUMemoryUtilizationRatio: percent(),
		fleet.GPUMemoryUsedBytes: float64(70<<30 + r.IntN(64)<<21), fleet.GPUMemoryTotalBytes: 80 << 30, fleet.GPUEngineMemoryBytes: float64(70<<30 + r.IntN(64)<<21),
		fleet.GPUPowerWatts: float64(300_000+r.IntN(300_000)) / 1000, fleet.GPUPowerLimitWatts: 700,
		fleet.GPUTemperatureCelsius: float64(50 + r.IntN(20)), fleet.GPUMemoryTemperatureCelsius: float64(60 + r.IntN(20)),
		fleet.GPUSMClockRatio: float64(1500+15*r.IntN(33)) / 1980, fleet.GPUMemoryClockRatio: 1,
		fleet.GPUPowerThrottledRatio: float64(r.IntN(2)), fleet.GPUThermalThrottledRatio: 0, fleet.GPUHardwareSlowdownRatio: 0,
		fleet.GPUSMActiveRatio: r.Float64(), fleet.GPUSMActiveRatioMin: r.Float64(), fleet.GPUSMOccupancyRatio: r.Float64(),
		fleet.GPUTensorActiveRatio: r.Float64(), fleet.GPUDRAMActiveRatio: r.Float64(),
		fleet.GPUPCIeSentBytesPerSecond: float64(r.IntN(1 << 30)), fleet.GPUPCIeReceivedBytesPerSecond: float64(r.IntN(1 << 30)),
		fleet.GPUNVLinkSentBytesPerSecond: float64(r.IntN(1 << 36)), fleet.GPUNVLinkReceivedBytesPerSecond: float64(r.IntN(1 << 36)),
		fleet.GPUPCIeGenerationRatio: 1, fleet.GPUPCIeWidthRatio: 1, fleet.GPUNVLinksActive: 18, fleet.GPUNVLinksDown: 0,
		fleet.GPURemapPending: 0, fleet.GPURemapFailed: 0,
	} {
		w.Gauges[name] = v
	}
	for name, v := range map[string]float64{
		fleet.GPUEnergyJoules: float64(300_000+r.IntN(300_000)) / 1000, fleet.GPUPowerViolationSeconds: float64(r.IntN(1e9)) / 1e9,
		fleet.GPUThermalViolationSeconds: 0, fleet.GPUECCCorrected: 0, fleet.GPUECCUncorrected: 0, fleet.GPUPCIeReplays: 0, fleet.GPUNVLinkErrors: 0,
		fleet.GPUNVLinkSentBytes: float64(r.IntN(1 << 36)), fleet.GPUNVLinkReceivedBytes: float64(r.IntN(1 << 36)),
	} {
		w.Counters[name] = v
	}
}

// windowRecorder is a control plane that only listens.
type windowRecorder struct {
	agentv1.UnimplementedAgentServiceServer

	addr   string
	server *grpc.Server

	mu   sync.Mutex // guards what follows
	from time.Time  // zero: nothing is kept yet
	all  []*recording
}

func listenRecorder(all []*recording) (*windowRecorder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &windowRecorder{addr: l.Addr().String(), server: grpc.NewServer(), all: all}
	agentv1.RegisterAgentServiceServer(r.server, r)
	go func() { _ = r.server.Serve(l) }() // it ends with Stop
	return r, nil
}

// Connect implements agentv1.AgentServiceServer.
func (r *windowRecorder) Connect(stream grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetHello() != nil {
			welcome := &agentv1.Welcome{ClusterId: "recorder", NodeId: "recorder", Incarnation: 1}
			if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
				return err
			}
		}
		r.take(m)
	}
}

func (r *windowRecorder) take(m *agentv1.ConnectRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := m.GetEngine(); e.GetDescription() != nil {
		if of := r.of(e.GetInstanceId()); of != nil {
			of.engine = e
		}
	}
	for _, w := range m.GetWindows().GetWindows() {
		of := r.of(w.GetInstanceId())
		if of != nil && !r.from.IsZero() && w.GetStartUnixMs() >= r.from.UnixMilli() && len(of.windows) < p2Record {
			of.windows = append(of.windows, w)
		}
	}
}

// of an instance "recorded/<number>"; nil for any other.
func (r *windowRecorder) of(instance string) *recording {
	_, name, _ := strings.Cut(instance, "/")
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i >= len(r.all) {
		return nil
	}
	return r.all[i]
}

func (r *windowRecorder) begin(from time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from = from
}

func (r *windowRecorder) complete(context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.all {
		if len(of.windows) < p2Record {
			return false
		}
	}
	return true
}
