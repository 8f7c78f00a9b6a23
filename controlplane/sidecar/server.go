package sidecar

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// serverOptions suit thousands of quiet streams: small buffers, keepalives that agents may send
// often (gRPC's default policy disconnects them for it), and connections that end now and then, so
// that agents spread over nodes again after one was away. gRPC adds 10 % jitter to the age.
func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:                  10 * time.Second,
			Timeout:               5 * time.Second,
			MaxConnectionAge:      time.Hour,
			MaxConnectionAgeGrace: 10 * time.Second,
		}),
		grpc.ReadBufferSize(4 << 10),
		grpc.WriteBufferSize(4 << 10),
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(8 << 20),
	}
}
