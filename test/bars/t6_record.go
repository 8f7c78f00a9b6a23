package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/optiinfra/performance-agent/pkg/calibrate"
	"github.com/optiinfra/performance-agent/pkg/workload"
	"github.com/optiinfra/performance-agent/test/real/drive"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// recordSetting starts the engine with one setting and measures it under every load that is not
// recorded yet, the live setting under the live load first. Each run becomes a file of its own below
// dir.
func recordSetting(ctx context.Context, r engine.Recipe, s setting, dir string) error {
	runs := loads()
	if s.name == liveSetting {
		runs = append([]load{liveLoad(r.Kind)}, runs...)
	}
	return recordStart(ctx, r, s, dir, s.name, runs)
}

// recordStart starts the engine with one setting and measures it under those runs that no file of that
// name is there for. Equal settings and loads have equal traffic, whatever the files are called.
func recordStart(ctx context.Context, r engine.Recipe, s setting, dir, name string, runs []load) (err error) {
	runs = slices.DeleteFunc(slices.Clone(runs), func(l load) bool {
		_, err := os.Stat(runFile(dir, name, l.name))
		return err == nil
	})
	if len(runs) == 0 {
		return nil
	}
	core, _ := strconv.Atoi(os.Getenv("CORE")) // unset: the first one
	p, err := r.Start(engine.Options{Flags: s.flags, Core: core})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := p.Ready(ctx); err != nil {
		return err
	}
	if err := warmUp(ctx, p); err != nil {
		return err
	}
	for _, l := range runs {
		seed := seedOf(string(r.Kind), s.name, l.name)
		trace, err := workload.Generate(l.spec, seed)
		if err != nil {
			return err
		}
		requests, err := drive.Run(ctx, p, trace, seed)
		if err != nil {
			return fmt.Errorf("%s under %s: %w", name, l.name, err)
		}
		if err := ctx.Err(); err != nil { // what was cut is no recording
			return err
		}
		if err := writeRun(runFile(dir, name, l.name), requests); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "recorded %s under %s: %d requests\n", name, l.name, len(requests))
	}
	return nil
}

// warmUp lets the engine meet the lengths it will see once, unmeasured.
func warmUp(ctx context.Context, p *engine.Process) error {
	trace, err := workload.Generate(workload.Spec{
		Arrivals: workload.Arrivals{Rate: 8}, Prompt: between(16, 900), Output: between(4, 24), Count: 16,
	}, 1)
	if err != nil {
		return err
	}
	_, err = drive.Run(ctx, p, trace, 1)
	return err
}

// seedOf gives every run its own traffic, the same each time.
func seedOf(names ...string) uint64 {
	h := fnv.New64a()
	for _, n := range names {
		_, _ = h.Write([]byte(n + "/"))
	}
	return h.Sum64()
}

func runFile(dir, setting, load string) string {
	return filepath.Join(dir, setting+"."+load+".jsonl")
}

func writeRun(file string, requests []calibrate.Request) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	out := json.NewEncoder(w)
	for _, r := range requests {
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), f.Close())
}

func readRun(file string) (requests []calibrate.Request, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := json.NewDecoder(f)
	for lines.More() {
		var r calibrate.Request
		if err := lines.Decode(&r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		requests = append(requests, r)
	}
	return requests, nil
}
