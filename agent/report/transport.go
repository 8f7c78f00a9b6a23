package report

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// TLS names the files for mutual TLS. All empty means plain text, which is for loopback only.
type TLS struct {
	CA, Cert, Key string
}

// Enabled tells whether any file is named.
func (t TLS) Enabled() bool { return t != TLS{} }

// ErrPlainText is returned for an address beyond this machine without TLS.
var ErrPlainText = errors.New("plain text is for loopback addresses only; set tls.ca, tls.cert and tls.key")

// CheckAddress refuses an address that is no host:port, or that would carry plain text off this
// machine.
func CheckAddress(addr string, t TLS) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("control-plane address %q is not host:port", addr)
	}
	if t.Enabled() || isLoopback(host) {
		return nil
	}
	return fmt.Errorf("control-plane address %s: %w", addr, ErrPlainText)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// credentials reads the files anew for each connection, so that renewed certificates serve.
func (t TLS) credentials() (credentials.TransportCredentials, error) {
	if !t.Enabled() {
		return insecure.NewCredentials(), nil
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("read the agent's certificate: %w", err)
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("read the control plane's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", t.CA)
	}
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS13}), nil
}

// dial prepares a connection; it does not wait for it. Small buffers, because a control plane has
// thousands of these and an agent has little to say.
func dial(addr string, t TLS) (*grpc.ClientConn, error) {
	if err := CheckAddress(addr, t); err != nil {
		return nil, err
	}
	creds, err := t.credentials()
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("perf-agent"))
}
