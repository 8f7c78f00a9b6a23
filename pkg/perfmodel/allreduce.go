package perfmodel

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/goccy/go-yaml"
)

//go:embed allreduce.yaml
var builtinAllReduce []byte

// AllReduce is the time of a library's all-reduce among so many GPUs of one link domain: a latency, then
// a ring over which every GPU sends 2(t−1)/t of the message at the bus bandwidth.
type AllReduce struct {
	Ranks          int     `yaml:"ranks"`
	LatencySeconds float64 `yaml:"latency_us"`    // seconds here, microseconds in the file
	BusBytesPerSec float64 `yaml:"bus_gbps"`      // bytes/s here, 1e9 bytes/s in the file
	MedianError    float64 `yaml:"median_error"`  // relative, over the measurements behind it
	Measurements   int     `yaml:"measurements"`  // how many those are
	LargestBytes   int     `yaml:"largest_bytes"` // the law was not seen beyond
}

// Seconds of an all-reduce of so many bytes.
func (a AllReduce) Seconds(bytes float64) float64 {
	t := float64(a.Ranks)
	return a.LatencySeconds + 2*(t-1)/t*bytes/a.BusBytesPerSec
}

// ErrNoLaw means that no all-reduce was measured that could stand for the one asked for.
var ErrNoLaw = errors.New("no all-reduce was measured")

// allReduceLaws are the built-in laws by the link they were measured on, as LinkName writes it.
var allReduceLaws = sync.OnceValue(func() map[string][]AllReduce {
	laws, err := ReadAllReduce(builtinAllReduce)
	if err != nil {
		panic(err) // a test reads the embedded file
	}
	return laws
})

// ReadAllReduce reads a file of laws, the form that the derive command writes.
func ReadAllReduce(doc []byte) (map[string][]AllReduce, error) {
	var file struct {
		Laws map[string][]AllReduce `yaml:"allreduce"`
	}
	if err := yaml.UnmarshalWithOptions(doc, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("all-reduce laws: %w", err)
	}
	for _, laws := range file.Laws {
		for i := range laws {
			laws[i].LatencySeconds *= 1e-6
			laws[i].BusBytesPerSec *= 1e9
		}
	}
	return file.Laws, nil
}

// LinkName names a kind of link by which measured laws are found: nvlink-900.
func (g GPU) LinkName() string { return fmt.Sprintf("%s-%.0f", g.Link, g.LinkGbpsBidir) }

// AllReduceLaw is the law measured on this kind of link among so many ranks, or the next larger number
// that was measured, or the largest; ErrNoLaw when the link was never measured.
func (g GPU) AllReduceLaw(ranks int) (AllReduce, error) {
	laws := allReduceLaws()[g.LinkName()]
	for _, l := range laws {
		if l.Ranks >= ranks {
			return l, nil
		}
	}
	if len(laws) == 0 {
		return AllReduce{}, fmt.Errorf("%w on %s", ErrNoLaw, g.LinkName())
	}
	return laws[len(laws)-1], nil
}

// FitAllReduce finds the law that measured times follow: bytes of a message and its seconds.
func FitAllReduce(ranks int, bytes, seconds []float64) (AllReduce, error) {
	if ranks < 2 || len(bytes) == 0 || len(bytes) != len(seconds) {
		return AllReduce{}, fmt.Errorf("%w: %d ranks, %d sizes, %d times", ErrNoLaw, ranks, len(bytes), len(seconds))
	}
	rows, t := make([][]float64, len(bytes)), float64(ranks)
	largest := 0.
	for i, b := range bytes {
		rows[i] = []float64{1, 2 * (t - 1) / t * b}
		largest = max(largest, b)
	}
	theta := LeastRelative(rows, seconds, []float64{30e-6, 1e-11}, 0)
	law := AllReduce{
		Ranks: ranks, LatencySeconds: theta[0], BusBytesPerSec: 1 / theta[1],
		Measurements: len(bytes), LargestBytes: int(largest),
	}
	errs := make([]float64, len(bytes))
	for i, b := range bytes {
		errs[i] = math.Abs(law.Seconds(b)/seconds[i] - 1)
	}
	law.MedianError = medianOf(errs)
	return law, nil
}

// medianOf sorts its argument.
func medianOf(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
