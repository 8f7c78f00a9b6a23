package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// errNoData means that a bar's data, which is no part of the repository, is not there.
var errNoData = errors.New("data is absent")

// dataDir is the folder that a bar evaluates on, learnDir the one it learns from.
func dataDir() string { return folder("DATA", filepath.Join("..", "shared", "data")) }

func learnDir() string { return folder("FIT", dataDir()) }

func folder(variable, otherwise string) string {
	if dir := os.Getenv(variable); dir != "" {
		return dir
	}
	return otherwise
}

// dataFiles are the files of a kind, by pattern, in order of their names.
func dataFiles(dir, pattern string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%w: no %s", errNoData, pattern)
	}
	return files, err
}

// tablesWith are the built-in tables of hardware and models under those of the folder, if it has any.
func tablesWith(dir string) (*perfmodel.Tables, error) {
	var own [][]byte
	for _, name := range []string{"gpus.yaml", "models.yaml"} {
		doc, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		own = append(own, doc)
	}
	return perfmodel.Load(own...)
}

// writeDoc puts a bar's tables into the document that DOC names, between the two lines that carry the
// bar's name; nothing when DOC is not set.
func writeDoc(id, text string) error {
	file := os.Getenv("DOC")
	if file == "" {
		return nil
	}
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	out, err := replaceSection(string(doc), id, text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(out), 0o644)
}

func replaceSection(doc, id, text string) (string, error) {
	begin, end := fmt.Sprintf("<!-- begin %s", id), fmt.Sprintf("<!-- end %s -->", id)
	lines := strings.SplitAfter(doc, "\n")
	from := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, begin+":") })
	to := slices.IndexFunc(lines, func(l string) bool { return strings.TrimSpace(l) == end })
	if from < 0 || to < from {
		return "", fmt.Errorf("no lines %q and %q around the tables of %s", begin+": … -->", end, id)
	}
	return strings.Join(lines[:from+1], "") + strings.TrimSpace(text) + "\n" + strings.Join(lines[to:], ""), nil
}
