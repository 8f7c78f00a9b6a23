package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// PluginName is the name under which go-plugin dispenses the adapter.
const PluginName = "engine"

// Handshake tells plugin and host that they belong together. The cookie is no secret: it only
// keeps a person from starting a plugin by hand and wondering.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  1,
		MagicCookieKey:   "PERF_ENGINE_PLUGIN",
		MagicCookieValue: "c1b6d6f0-engine-v1",
	}
}

// Plugins is the set that both sides hand to go-plugin. The host passes nil.
func Plugins(a Adapter) plugin.PluginSet {
	return plugin.PluginSet{PluginName: &grpcPlugin{adapter: a}}
}

// Serve runs an adapter as a plugin until the host ends it. It is the only call of a plugin's main
// and does not return when the program was started by hand: it explains itself and exits 1.
func Serve(a Adapter) {
	h := Handshake()
	if os.Getenv(h.MagicCookieKey) != h.MagicCookieValue {
		_, _ = io.WriteString(os.Stderr, "This program is an engine adapter. perf-agent starts it; it does nothing on its own.\n")
		os.Exit(1)
	}
	// The host starts plugins through a descriptor, so that the kernel names them after its number.
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: h,
		Plugins:         Plugins(a),
		GRPCServer:      plugin.DefaultGRPCServer,
		Logger:          hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
	})
}

// grpcPlugin binds the contract to go-plugin's gRPC transport.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	adapter Adapter
}

var _ plugin.GRPCPlugin = (*grpcPlugin)(nil)

func (p *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	Register(s, p.adapter)
	return nil
}

func (p *grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewClient(conn), nil
}

// Register serves an adapter on a gRPC server.
func Register(s grpc.ServiceRegistrar, a Adapter) {
	enginev1.RegisterEngineServiceServer(s, &server{adapter: a})
}

type server struct {
	enginev1.UnimplementedEngineServiceServer
	adapter Adapter
}

func (s *server) Describe(ctx context.Context, r *enginev1.DescribeRequest) (*enginev1.DescribeResponse, error) {
	d, err := s.adapter.Describe(ctx, target(r.GetTarget()))
	if err != nil {
		return nil, err
	}
	return &enginev1.DescribeResponse{Description: d}, nil
}

func (s *server) Validate(ctx context.Context, r *enginev1.ValidateRequest) (*enginev1.ValidateResponse, error) {
	problems, err := s.adapter.Validate(ctx, target(r.GetTarget()), r.GetSettings())
	if err != nil {
		return nil, err
	}
	return &enginev1.ValidateResponse{Problems: problems}, nil
}

func (s *server) Command(ctx context.Context, r *enginev1.CommandRequest) (*enginev1.CommandResponse, error) {
	c, err := s.adapter.Command(ctx, target(r.GetTarget()), r.GetSettings())
	if err != nil {
		return nil, err
	}
	return &enginev1.CommandResponse{Argv: c.Argv, Env: c.Env, Effective: c.Effective, Warnings: c.Warnings}, nil
}

func (s *server) Apply(ctx context.Context, r *enginev1.ApplyRequest) (*enginev1.ApplyResponse, error) {
	results, err := s.adapter.Apply(ctx, target(r.GetTarget()), r.GetSettings())
	if err != nil {
		return nil, err
	}
	return &enginev1.ApplyResponse{Results: results}, nil
}

// target spares adapters the check for a request without one.
func target(t *Target) *Target {
	if t == nil {
		return &Target{}
	}
	return t
}

// client calls an adapter over the wire.
type client struct{ wire enginev1.EngineServiceClient }

var _ Adapter = (*client)(nil)

// NewClient returns the adapter at the other end of a connection. Errors of the transport carry
// their gRPC status.
func NewClient(conn grpc.ClientConnInterface) Adapter {
	return &client{wire: enginev1.NewEngineServiceClient(conn)}
}

// fault words an error of the far side: what the adapter itself said stands alone, what the
// transport says keeps its status.
func fault(call string, err error) error {
	if s, ok := status.FromError(err); ok && s.Code() == codes.Unknown {
		return fmt.Errorf("%s: %s", call, s.Message())
	}
	return fmt.Errorf("%s: %w", call, err)
}

func (c *client) Describe(ctx context.Context, t *Target) (*Description, error) {
	r, err := c.wire.Describe(ctx, &enginev1.DescribeRequest{Target: t})
	if err != nil {
		return nil, fault("describe", err)
	}
	if r.GetDescription().GetEngine() == "" {
		return nil, fmt.Errorf("describe: %w: the answer does not name an engine", ErrBadAnswer)
	}
	return r.GetDescription(), nil
}

func (c *client) Validate(ctx context.Context, t *Target, s Settings) ([]*Problem, error) {
	r, err := c.wire.Validate(ctx, &enginev1.ValidateRequest{Target: t, Settings: s})
	if err != nil {
		return nil, fault("validate", err)
	}
	return r.GetProblems(), nil
}

func (c *client) Command(ctx context.Context, t *Target, s Settings) (*CommandLine, error) {
	r, err := c.wire.Command(ctx, &enginev1.CommandRequest{Target: t, Settings: s})
	if err != nil {
		return nil, fault("command", err)
	}
	if len(r.GetArgv()) == 0 {
		return nil, fmt.Errorf("command: %w: the command line is empty", ErrBadAnswer)
	}
	return &CommandLine{Argv: r.GetArgv(), Env: r.GetEnv(), Effective: r.GetEffective(), Warnings: r.GetWarnings()}, nil
}

func (c *client) Apply(ctx context.Context, t *Target, s Settings) ([]*KnobResult, error) {
	r, err := c.wire.Apply(ctx, &enginev1.ApplyRequest{Target: t, Settings: s})
	if err != nil {
		return nil, fault("apply", err)
	}
	return r.GetResults(), nil
}
