package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

const (
	bootstrapPause = 250 * time.Millisecond
	// bootstrapPatience passes before a server says whom it waits for, bootstrapSilence between
	// two times.
	bootstrapPatience = 3 * time.Second
	bootstrapSilence  = 10 * time.Second
)

// errOthersKnow: some peer has a log already, so this server waits for the leader to send it.
var errOthersKnow = errors.New("the cluster exists already")

// bootstrap starts a new cluster once every expected server agrees that there is none: all answer,
// none has a log of its own, all list the same peers. Each writes the same first entry, so it does
// not matter who is first. A server with an empty folder whose peers have a log gets theirs.
func (n *Node) bootstrap(ctx context.Context) {
	said := time.Now().Add(bootstrapPatience - bootstrapSilence)
	for ctx.Err() == nil {
		err := n.agree(ctx)
		switch {
		case err == nil:
			err = n.raft.BootstrapCluster(n.configuration()).Error()
			if err == nil || errors.Is(err, raft.ErrCantBootstrap) {
				return
			}
		case errors.Is(err, errOthersKnow):
			n.logger.Info("another server has the log already; waiting for the leader to send it")
			return
		}
		if time.Since(said) > bootstrapSilence {
			n.logger.Warn("new cluster is waiting for its servers", "waiting_for", err)
			said = time.Now()
		}
		select {
		case <-time.After(bootstrapPause):
		case <-ctx.Done():
		}
	}
}

// agree asks every other server. nil: all are new and list the same peers.
func (n *Node) agree(ctx context.Context) error {
	var waiting []error
	for _, p := range n.cfg.Peers {
		if p.ID == n.self.ID {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		a, err := n.ask(ctx, p.RaftAddr, question{Ask: askState})
		cancel()
		switch {
		case err != nil:
			waiting = append(waiting, fmt.Errorf("%s does not answer at %s: %w", p.ID, p.RaftAddr, err))
		case a.NodeID != p.ID:
			waiting = append(waiting, fmt.Errorf("%s was expected at %s but %s answers: correct the peers", p.ID, p.RaftAddr, a.NodeID))
		case a.Known:
			return errOthersKnow
		case a.Peers != fingerprint(n.cfg.Peers):
			waiting = append(waiting, fmt.Errorf("%s lists other peers than this server: give all servers the same list", p.ID))
		}
	}
	return errors.Join(waiting...)
}

// configuration is the first entry of a new cluster's log, equal on all servers.
func (n *Node) configuration() raft.Configuration {
	var c raft.Configuration
	for _, p := range n.Peers() {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.RaftAddr)})
	}
	return c
}

// keepClusterID writes the cluster's id beside the log once it is known. A folder whose log tells
// another id than the file was put together from two clusters: the process stops.
func (n *Node) keepClusterID(ctx context.Context) {
	for {
		changed := n.machine.Watch()
		if id := n.machine.Cluster().ID; id != "" {
			if err := n.checkClusterID(id); err != nil {
				n.fatal(err)
			}
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) checkClusterID(id string) error {
	kept, err := n.dir.read("cluster-id")
	switch {
	case err != nil:
		return err
	case kept == "":
		if err := n.dir.write("cluster-id", id); err != nil {
			n.logger.Warn("the cluster's id could not be written beside the log", "error", err)
		}
		return nil
	case kept != id:
		return fmt.Errorf("%w: %s belongs to cluster %s, but its servers now form cluster %s: start with an empty folder, or put the right one back", ErrDataDir, n.cfg.DataDir, kept, id)
	}
	return nil
}
