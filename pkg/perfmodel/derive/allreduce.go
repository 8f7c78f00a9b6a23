package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// allReduceFiles of the data folder, and the GPU of the table whose link each was measured on.
var allReduceFiles = []struct{ file, gpu string }{
	{"vidur_allreduce_h100_dgx.csv", "h100-sxm"},
	{"vidur_allreduce_a100_dgx.csv", "a100-80-sxm"},
}

// deriveAllReduce fits a law per link and number of ranks and returns the YAML file of them.
func deriveAllReduce(data string) ([]byte, error) {
	tables, err := perfmodel.Load()
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "# Time of NCCL's all-reduce inside one link domain: latency_us + 2(ranks-1)/ranks bytes/bus_gbps, fitted\n"+
		"# to the medians that vidur (MIT licence) measured. Written by `%s -data DIR`; do not edit.\nallreduce:\n", command)
	for _, f := range allReduceFiles {
		file, err := os.Open(filepath.Join(data, f.file))
		if err != nil {
			return nil, err
		}
		measured, err := readAllReduce(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.file, err)
		}
		fmt.Fprintf(&out, "  %s: # %s\n", tables.GPUs[f.gpu].LinkName(), f.file)
		for _, m := range measured {
			law, err := perfmodel.FitAllReduce(m.ranks, m.bytes, m.seconds)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.file, err)
			}
			fmt.Fprintf(&out, "    - {ranks: %d, latency_us: %.1f, bus_gbps: %.1f, median_error: %.3f, measurements: %d, largest_bytes: %d}\n",
				law.Ranks, 1e6*law.LatencySeconds, law.BusBytesPerSec/1e9, law.MedianError, law.Measurements, law.LargestBytes)
		}
	}
	return []byte(out.String()), nil
}

// sizes are the measurements with one number of ranks.
type sizes struct {
	ranks          int
	bytes, seconds []float64
}

// readAllReduce reads the medians of measurements that stayed inside a node, by ranks.
func readAllReduce(r io.Reader) (all []sizes, err error) {
	rows := csv.NewReader(r)
	header, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	at := func(name string) int { return slices.Index(header, name) }
	size, ranks, inNode, median := at("size"), at("num_workers"), at("devices_per_node"), at("time_stats.all_reduce.median")
	if min(size, ranks, inNode, median) < 0 {
		return nil, errors.New("want the columns size, num_workers, devices_per_node, time_stats.all_reduce.median")
	}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if row[inNode] != row[ranks] {
			continue // crosses nodes
		}
		n, err1 := strconv.Atoi(row[ranks])
		b, err2 := strconv.ParseFloat(row[size], 64)
		ms, err3 := strconv.ParseFloat(row[median], 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			line, _ := rows.FieldPos(0)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		i := slices.IndexFunc(all, func(s sizes) bool { return s.ranks >= n })
		if i < 0 {
			i = len(all)
		}
		if i == len(all) || all[i].ranks != n {
			all = slices.Insert(all, i, sizes{ranks: n})
		}
		all[i].bytes, all[i].seconds = append(all[i].bytes, b), append(all[i].seconds, ms/1e3)
	}
}
