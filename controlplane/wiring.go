package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/cluster"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/optimizer"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// view shows a node to the REST interface.
type view struct{ *cluster.Node }

// LeaderURL implements api.Cluster.
func (v view) LeaderURL() string {
	p, ok := v.Leader()
	if !ok || p.HTTPAddr == "" {
		return ""
	}
	if strings.Contains(p.HTTPAddr, "://") {
		return p.HTTPAddr
	}
	return "http://" + p.HTTPAddr
}

// ReadBarrier implements api.Cluster.
func (v view) ReadBarrier(ctx context.Context) error {
	if err := v.ReadLinearizable(ctx); err != nil {
		return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	return nil
}

// Health implements api.Cluster.
func (v view) Health() api.ClusterHealth {
	s := v.Status()
	h := api.ClusterHealth{
		NodeID: s.NodeID, State: s.State, Term: s.Term, AppliedIndex: s.AppliedIndex, ClusterID: s.ClusterID,
		LastContactMS: float64(s.LastContactMs), LeaderURL: v.LeaderURL(), Members: []api.ClusterMember{},
	}
	if s.Leader != nil {
		h.LeaderID = s.Leader.ID
	}
	for _, p := range s.Peers {
		h.Members = append(h.Members, api.ClusterMember{ID: p.ID, Address: p.RaftAddr, Voter: true})
	}
	return h
}

// advisor translates the optimizer's errors for the REST interface.
type advisor struct{ *optimizer.Service }

// Findings implements api.Advisor.
func (a advisor) Findings(ctx context.Context, group string) ([]*commandv1.Finding, error) {
	fs, err := a.Service.Findings(ctx, group)
	return fs, asAPI(err)
}

// Recommend implements api.Advisor.
func (a advisor) Recommend(ctx context.Context, group string, families []string) (*commandv1.Recommendation, error) {
	r, err := a.Service.Recommend(ctx, group, families)
	return r, asAPI(err)
}

// WhatIf implements api.Oracle.
func (a advisor) WhatIf(ctx context.Context, q api.WhatIfQuestion) (*api.WhatIf, error) {
	question := optimizer.Question{
		Group: q.Group, Engine: q.Engine, Model: q.Model, Hardware: q.Hardware, Replicas: q.Replicas, RequestsPerSecond: q.RequestsPerSecond,
		PromptTokens: q.PromptTokens, OutputTokens: q.OutputTokens, PrefixHitRate: q.PrefixHitRate, Settings: q.Settings,
	}
	if q.TTFTSeconds+q.TPOTSeconds+q.E2ESeconds > 0 {
		question.Objectives = &commandv1.Objectives{TtftSeconds: q.TTFTSeconds, TpotSeconds: q.TPOTSeconds, E2ESeconds: q.E2ESeconds}
	}
	s, err := a.Simulate(ctx, question)
	if err != nil {
		return nil, asAPI(err)
	}
	w := &api.WhatIf{
		Settings: s.Settings, Replicas: s.Replicas, GPUs: s.GPUs, Notes: s.Notes,
		Capacity: api.WhatIfCapacity{
			RequestsPerSecond: api.PredictedOf(s.Capacity.RequestsPerSecond), Users: api.PredictedOf(s.Capacity.Users), ReplicasNeeded: s.Capacity.ReplicasNeeded, Why: s.Capacity.Why,
		},
		Curve: []api.WhatIfPoint{}, Pareto: []api.WhatIfPareto{},
	}
	for _, p := range s.Curve {
		point := api.WhatIfPoint{RequestsPerSecond: p.RequestsPerSecond, Meets: p.Meets, Predicted: map[string]api.Predicted{}}
		for name, v := range p.Predicted {
			point.Predicted[name] = api.PredictedOf(v)
		}
		w.Curve = append(w.Curve, point)
	}
	for _, p := range s.Pareto {
		w.Pareto = append(w.Pareto, api.WhatIfPareto(p))
	}
	return w, nil
}

// kindred is an error that the REST interface knows by its kind, and shows as it is.
type kindred struct{ kind, err error }

func (k kindred) Error() string   { return k.err.Error() }
func (k kindred) Unwrap() []error { return []error{k.kind, k.err} }

func asAPI(err error) error {
	switch {
	case errors.Is(err, optimizer.ErrUnknownGroup):
		return kindred{api.ErrNotFound, err}
	case errors.Is(err, optimizer.ErrQuestion):
		return kindred{api.ErrQuestion, err}
	}
	return err
}

// policies writes the configured group policies once per leadership, where they differ.
type policies struct {
	groups  map[string]api.PolicyChange
	machine *fsm.Machine
	node    *cluster.Node
	logger  *slog.Logger
}

func (p policies) write(ctx context.Context, _ uint64) error {
	for _, name := range slices.Sorted(maps.Keys(p.groups)) {
		want := p.groups[name].Proto()
		if g := p.machine.Group(name); g != nil {
			merged := proto.CloneOf(g.GetPolicy())
			proto.Merge(merged, want)
			if len(want.GetSteps()) > 0 {
				merged.Steps = want.GetSteps()
			}
			if proto.Equal(merged, g.GetPolicy()) {
				continue
			}
		}
		res, err := p.node.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, &commandv1.PutGroup{Name: name, Policy: want}, "", "configuration")
		if err = errors.Join(err, res.Err()); err != nil && ctx.Err() == nil {
			p.logger.Error("configured policy not written", "group", name, "error", err)
		}
	}
	<-ctx.Done()
	return nil
}

// evidence keeps what verdicts rest on as files named by their SHA-256.
type evidence struct{ dir string }

func openEvidence(dir string) (evidence, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return evidence{}, fmt.Errorf("data folder cannot be written: %w; choose another data_dir or free the disk", err)
	}
	e := evidence{dir}
	e.expire()
	return e, nil
}

// evidenceAge is how long evidence files are kept: as long as a failed configuration is refused.
const evidenceAge = 7 * 24 * time.Hour

// Put implements rollout.Evidence.
func (e evidence) Put(content []byte) (string, error) {
	sum := sha256.Sum256(content)
	hash := hex.EncodeToString(sum[:])
	path := filepath.Join(e.dir, hash+".json")
	if _, err := os.Stat(path); err == nil {
		return hash, nil
	}
	temp, err := os.CreateTemp(e.dir, ".new-*")
	if err != nil {
		return "", fmt.Errorf("keep evidence: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(content)
	if err = errors.Join(err, temp.Close()); err != nil {
		return "", fmt.Errorf("keep evidence: %w", err)
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return "", fmt.Errorf("keep evidence: %w", err)
	}
	return hash, nil
}

// expire removes files older than evidenceAge. What cannot be removed is tried at the next start.
func (e evidence) expire() {
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return
	}
	for _, f := range entries {
		if info, err := f.Info(); err == nil && time.Since(info.ModTime()) > evidenceAge {
			_ = os.Remove(filepath.Join(e.dir, f.Name()))
		}
	}
}
