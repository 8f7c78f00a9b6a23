package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// Peer is one server of the cluster.
type Peer struct {
	// ID names the server for good; its addresses may change.
	ID string `json:"id"`
	// RaftAddr is where the other servers reach its Raft port.
	RaftAddr string `json:"raft_addr"`
	// HTTPAddr is where clients reach its REST API.
	HTTPAddr string `json:"http_addr"`
	// AgentAddr is where agents and other servers reach its gRPC port.
	AgentAddr string `json:"agent_addr"`
}

// Config of a Node.
type Config struct {
	// NodeID names this server for good. Empty: the ID of the peer with this server's Raft address,
	// else the one kept in the data folder, else a new UUID.
	NodeID string
	// DataDir holds log, snapshots and identity. It is created when missing.
	DataDir string
	// RaftAddr to listen on; AdvertiseRaft is what peers dial, by default the listener's address.
	RaftAddr, AdvertiseRaft string
	// HTTPAddr and AgentAddr of this server, told to clients that must go to the leader.
	HTTPAddr, AgentAddr string
	// Peers are all servers, this one included; empty for a cluster of one.
	Peers []Peer
	// Expect is how many servers must agree before a new cluster starts; 0: all Peers.
	Expect int
	// Heartbeat is also the election timeout. Default 500 ms; 300 ms suits servers in one zone. Less
	// than 150 ms loses leaders under load.
	Heartbeat time.Duration
	// Security wraps every connection between servers; nil is plain TCP, allowed on loopback only.
	Security *Security
	// Listener to use instead of listening on RaftAddr.
	Listener net.Listener
	// Exit ends the process after an unrecoverable fault; default os.Exit.
	Exit func(code int)

	// SnapshotEntries and SnapshotAge trigger a snapshot when that many entries, or any entry for
	// that long, lie beyond the last one. Defaults 4096 and 10 min.
	SnapshotEntries uint64
	SnapshotAge     time.Duration
	// TrailingLogs kept behind a snapshot for slow followers. Default 16384.
	TrailingLogs uint64
}

// Security turns TCP connections between servers into protected ones.
type Security struct {
	Server func(net.Conn) net.Conn
	Client func(conn net.Conn, peer string) net.Conn
}

const (
	defaultHeartbeat = 500 * time.Millisecond
	minHeartbeat     = 150 * time.Millisecond
)

func (c Config) withDefaults() Config {
	if c.Heartbeat == 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.Exit == nil {
		c.Exit = os.Exit
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 4096
	}
	if c.SnapshotAge == 0 {
		c.SnapshotAge = 10 * time.Minute
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = 16384
	}
	if c.Expect == 0 {
		c.Expect = max(1, len(c.Peers))
	}
	return c
}

// validate reports all faults together.
func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.DataDir == "" {
		fault("data folder is not set: name a folder of this server's own")
	}
	if c.RaftAddr == "" && c.Listener == nil {
		fault("Raft address is not set: use 127.0.0.1:8003 for a single server")
	}
	if c.Heartbeat < minHeartbeat {
		fault("heartbeat %v is below %v and would lose leaders under load", c.Heartbeat, minHeartbeat)
	}
	if c.Expect != max(1, len(c.Peers)) {
		fault("%d servers are expected but %d peers are listed: list every server, this one included", c.Expect, len(c.Peers))
	}
	faults = append(faults, c.validatePeers()...)
	if c.Security == nil {
		faults = append(faults, c.validateLoopback()...)
	}
	return errors.Join(faults...)
}

func (c Config) validatePeers() (faults []error) {
	ids, addrs := map[string]bool{}, map[string]bool{}
	for i, p := range c.Peers {
		switch {
		case p.ID == "":
			faults = append(faults, fmt.Errorf("peer %d (%s) has no id: give each server a lasting name such as cp%d", i+1, p.RaftAddr, i+1))
		case ids[p.ID]:
			faults = append(faults, fmt.Errorf("two peers are called %q", p.ID))
		}
		if p.RaftAddr == "" {
			faults = append(faults, fmt.Errorf("peer %q has no Raft address", p.ID))
		} else if addrs[p.RaftAddr] {
			faults = append(faults, fmt.Errorf("two peers have the Raft address %s", p.RaftAddr))
		}
		ids[p.ID], addrs[p.RaftAddr] = true, true
	}
	if len(c.Peers) > 0 && c.NodeID != "" && !ids[c.NodeID] {
		faults = append(faults, fmt.Errorf("this server is called %q, which is not among its peers %s", c.NodeID, strings.Join(peerIDs(c.Peers), ", ")))
	}
	return faults
}

func (c Config) validateLoopback() (faults []error) {
	addrs := []string{c.RaftAddr, c.AdvertiseRaft}
	for _, p := range c.Peers {
		addrs = append(addrs, p.RaftAddr)
	}
	for _, a := range slices.Compact(addrs) {
		if a != "" && !isLoopback(a) {
			faults = append(faults, fmt.Errorf("address %s for Raft can be reached from other machines but TLS is off: set up TLS between the servers, or use 127.0.0.1", a))
		}
	}
	return faults
}

// isLoopback is strict: a name other than localhost could resolve to anything.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// fingerprint is equal on servers that list the same peers.
func fingerprint(peers []Peer) string {
	lines := make([]string, 0, len(peers))
	for _, p := range peers {
		lines = append(lines, p.ID+"="+p.RaftAddr)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:8])
}

func peerIDs(peers []Peer) []string {
	ids := make([]string, 0, len(peers))
	for _, p := range peers {
		ids = append(ids, p.ID)
	}
	return ids
}
