// Command derive fits the coefficients that pkg/perfmodel carries to public measurements, which are read
// from a folder and never committed, and writes their files.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// command as the files it writes name it.
const command = "go run ./pkg/perfmodel/derive"

func main() {
	data := flag.String("data", "../shared/data", "folder of the measurements")
	out := flag.String("out", "pkg/perfmodel", "folder of the files to write")
	flag.Parse()
	if err := derive(*data, *out); err != nil {
		fmt.Fprintln(os.Stderr, "derive:", err)
		os.Exit(1)
	}
}

func derive(data, out string) error {
	for name, from := range files {
		doc, err := from(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(out, name), doc, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// files by name, and what derives each from a folder of measurements.
var files = map[string]func(data string) ([]byte, error){
	"allreduce.yaml": deriveAllReduce,
	"law.yaml":       deriveLaws,
}
