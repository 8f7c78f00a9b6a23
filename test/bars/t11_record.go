package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/optiinfra/performance-agent/controlplane/analysis"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// Times of a span: traffic and fault first settle, then windows count.
const (
	spanLead   = 4 * time.Second
	spanLength = 20 * time.Second
)

// calibration is the name of the spans from which an engine's own pace is learned.
const calibration = "calibration"

// calibrationRates are requests per second of those spans.
var calibrationRates = []float64{1.2, 3, 6, 10}

// span is one recorded stretch of telemetry and what was done during it.
type span struct {
	Engine    string // and its version
	Cause     string
	Session   string
	Repeat    int
	Intensity float64
	Config    analysis.Config
	Warnings  []string // of the adapter
	Stable    float64  // seconds that this kind of engine takes to start
	// What the clients saw, for the reader: seconds.
	ClientTTFT50, ClientTTFT95, ClientE2E50 float64
	Requests                                int

	windows []*fleet.Window
}

// session is one engine, started for some spans.
type session struct {
	name  string
	flags []string
}

// Common flags give the engine a cache that a burst fits into and a churn does not.
var baseFlags = []string{"--max-num-seqs", "128", "--max-num-batched-tokens", "2048", "--max-model-len", "4096"}

var sessions = []session{
	{"base", []string{"--num-gpu-blocks-override", "384"}},
	{"kv_small", []string{"--max-model-len", "1024", "--num-gpu-blocks-override", "20"}},
	{"tiny_batch", []string{"--max-num-seqs", "2", "--num-gpu-blocks-override", "384"}},
	{"oversized_batch", []string{"--max-num-seqs", "512", "--max-model-len", "1024", "--num-gpu-blocks-override", "64"}},
	{"cold_start", []string{"--num-gpu-blocks-override", "384"}},
	{"log_stats_off", []string{"--num-gpu-blocks-override", "384", "--disable-log-stats"}},
}

// record runs the sessions and keeps their spans; what is there already is not recorded again, so
// that a long bar can be made in parts.
func record(ctx context.Context, o diagnosisOptions, bin string) error {
	recipe, err := engine.Find(o.kind)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return fmt.Errorf("folder of recordings: %w", err)
	}
	for _, s := range sessions {
		if o.only != "" && s.name != o.only {
			continue
		}
		for repeat := range o.repeats {
			r := &recorder{options: o, session: s, repeat: repeat, recipe: recipe, bin: bin}
			if r.plan(); len(r.todo) == 0 {
				continue
			}
			if err := r.run(ctx); err != nil {
				return fmt.Errorf("session %s: %w", s.name, err)
			}
		}
	}
	return nil
}

func (s *span) file(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d.jsonl", s.Cause, s.Repeat))
}

// write keeps the span: what it is in the first line, then a window a line.
func (s *span) write(dir string) (err error) {
	f, err := os.Create(s.file(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return err
	}
	for _, win := range s.windows {
		pb, err := win.Proto()
		if err != nil {
			return err
		}
		raw, err := protojson.Marshal(pb)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n", raw)
	}
	return w.Flush()
}

func readSpans(dir string) ([]*span, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []*span
	for _, file := range files {
		s, err := readSpan(file)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no recording is in %s", dir)
	}
	return out, nil
}

func readSpan(file string) (*span, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	head, rest, _ := strings.Cut(string(raw), "\n")
	s := &span{}
	if err := json.Unmarshal([]byte(head), s); err != nil {
		return nil, err
	}
	for line := range strings.Lines(rest) {
		pb := &agentv1.Window{}
		if err := protojson.Unmarshal([]byte(line), pb); err != nil {
			return nil, err
		}
		w, err := fleet.FromProto(pb)
		if err != nil {
			return nil, err
		}
		s.windows = append(s.windows, w)
	}
	return s, nil
}
