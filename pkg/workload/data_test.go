package workload

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// dataFile is a file of public data, which is not part of the repository; the test is skipped where it is
// absent. DATA names another folder.
func dataFile(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	file := filepath.Join(dir, name)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the data is absent: %v", err)
	}
	return file
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// TestPublishedTraces reads the public traces and finds what is published of them.
func TestPublishedTraces(t *testing.T) {
	for _, c := range []struct {
		file              string
		read              func(io.Reader) ([]Request, error)
		rows              int
		rate              float64
		prompt, output    [3]float64
		gapCV, dispersion float64
	}{
		{"azure_llm_2023_code.csv", ReadAzureCSV, 8819, 2.57, [3]float64{1469, 5188, 7436}, [3]float64{13, 55, 251}, 13.2, 72},
		{"azure_llm_2023_conv.csv", ReadAzureCSV, 19366, 5.53, [3]float64{1020, 2734, 4142}, [3]float64{129, 424, 601}, 1.1, 3.9},
		{"mooncake_conversation.jsonl", ReadMooncakeJSONL, 12031, 3.40, [3]float64{6909, 27367, 85400}, [3]float64{350, 597, 1119}, 3.0, 2.1},
	} {
		t.Run(c.file, func(t *testing.T) {
			f, err := os.Open(dataFile(t, c.file))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			trace, err := c.read(f)
			if err != nil {
				t.Fatal(err)
			}
			s := Summarize(trace)
			if s.Requests != c.rows || !near(s.Rate, c.rate, .005) || !near(s.GapCV, c.gapCV, .02) || !near(s.Dispersion, c.dispersion, .02) {
				t.Errorf("%+v", s)
			}
			for i := range c.prompt {
				if !near(s.Prompt[i], c.prompt[i], .005) || !near(s.Output[i], c.output[i], .01) {
					t.Errorf("quantile %d: %.0f and %.0f tokens, published %.0f and %.0f", i, s.Prompt[i], s.Output[i], c.prompt[i], c.output[i])
				}
			}
			if c.file != "mooncake_conversation.jsonl" {
				return
			}
			for capacity, want := range map[int]float64{0: .366, 15_400_000: .326, 5_100_000: .211, 1_500_000: .065, 500_000: .044} {
				if got := ReuseRate(trace, capacity); math.Abs(got-want) > .01 {
					t.Errorf("a cache of %d tokens finds %.3f of the prompts, published %.3f", capacity, got, want)
				}
			}
		})
	}
}
