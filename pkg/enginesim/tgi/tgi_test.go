package tgi

import (
	"slices"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
)

func resolved(t *testing.T, env map[string]string, argv ...string) *settings {
	t.Helper()
	m, err := (&sim.Env{Options: sim.Options{GPU: "h100-sxm", GPUs: 1, Model: "llama-3.1-8b"}}).Machine()
	if err != nil {
		t.Fatal(err)
	}
	get := func(k string) string { return env[k] }
	flags := newFlags()
	args, err := flags.Parse(argv)
	if err != nil {
		t.Fatal(err)
	}
	if err := flags.SetEnv(args, get); err != nil {
		t.Fatal(err)
	}
	s, err := resolve(args, get, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.fit(m); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestChunkingDecidesWhichFlagsWork(t *testing.T) {
	on := resolved(t, map[string]string{"MAX_BATCH_SIZE": "2"})
	if !on.core.ChunkedPrefill || !slices.ContainsFunc(on.warnings(), func(w string) bool { return strings.Contains(w, "max_batch_size") }) {
		t.Errorf("chunking %v, warnings %q; want on and max_batch_size ignored", on.core.ChunkedPrefill, on.warnings())
	}
	off := resolved(t, map[string]string{"PREFILL_CHUNKING": "0", "MAX_BATCH_SIZE": "2"})
	if off.core.ChunkedPrefill || off.core.MaxNumSeqs != 2 || len(off.warnings()) != 0 {
		t.Errorf("chunking %v, batch %d, warnings %q; want off, 2 and none", off.core.ChunkedPrefill, off.core.MaxNumSeqs, off.warnings())
	}
	if off.maxTotal > off.prefill || off.maxInput >= off.maxTotal {
		t.Errorf("without chunking input %d, total %d, prefill %d", off.maxInput, off.maxTotal, off.prefill)
	}
	if resolved(t, nil, "--speculate", "2").core.ChunkedPrefill {
		t.Error("speculation leaves chunking on")
	}
}

func TestDurationBounds(t *testing.T) {
	b := durationBounds()
	if len(b) != 35 || b[0] < .00014999 || b[0] > .00015001 || b[34] < 145.61 || b[34] > 145.62 {
		t.Errorf("%d bounds from %g to %g, want 35 from 0.00015 to 145.61", len(b), b[0], b[len(b)-1])
	}
}
