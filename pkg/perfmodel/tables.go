package perfmodel

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

//go:embed gpus.yaml
var builtinGPUs []byte

//go:embed models.yaml
var builtinModels []byte

// Reasons for which a table lookup or a prediction is refused.
var (
	// ErrUnknown means no entry has that name or matches that string.
	ErrUnknown = errors.New("not in the table")
	// ErrMissing means an entry lacks fields that the formulas need; the text names them.
	ErrMissing = errors.New("missing fields")
)

// GPU describes one accelerator by its data sheet: dense peaks, no sparsity.
type GPU struct {
	Match         []string `yaml:"match"` // parts of the product name that NVML reports
	SM            int      `yaml:"sm"`    // CUDA compute capability × 10; 0 on other vendors
	BF16TFLOPS    float64  `yaml:"bf16_tflops"`
	FP16Only      bool     `yaml:"fp16_only"` // bf16_tflops holds for FP16, BF16 does not exist
	FP8TFLOPS     float64  `yaml:"fp8_tflops"`
	INT8TOPS      float64  `yaml:"int8_tops"`
	FP4TFLOPS     float64  `yaml:"fp4_tflops"`
	HBMGB         float64  `yaml:"hbm_gb"`    // capacity as the vendor names it
	UsableGB      float64  `yaml:"usable_gb"` // where it is clearly less
	HBMTBps       float64  `yaml:"hbm_tbps"`  // 1e12 bytes/s
	Link          string   `yaml:"link"`
	LinkGbpsBidir float64  `yaml:"link_gbps_bidir"` // 1e9 bytes/s, both directions together
	NodeGPUs      int      `yaml:"node_gpus"`       // GPUs in one link domain
	Price         Price    `yaml:"price_usd_hour"`
}

// Price is a range of listed prices in US dollars per GPU hour; zero when unknown, and then no cost may
// be stated.
type Price struct {
	Low  float64 `yaml:"low"`
	High float64 `yaml:"high"`
}

// Tables are the known GPUs and models by name.
type Tables struct {
	GPUs   map[string]GPU
	Models map[string]Model
	// UserFields lists, as "gpus.h100-sxm.hbm_gb", the fields that an override gave; all others are built in.
	UserFields []string
}

// Load returns the built-in tables with overrides, YAML documents of the same form, merged over them
// field by field in order. Unknown keys and malformed documents are errors.
func Load(overrides ...[]byte) (*Tables, error) {
	t := &Tables{GPUs: map[string]GPU{}, Models: map[string]Model{}}
	for i, doc := range append([][]byte{builtinGPUs, builtinModels}, overrides...) {
		fields, err := t.merge(doc)
		if err != nil {
			return nil, fmt.Errorf("hardware and model table %d: %w", i-1, err)
		}
		if i > 1 {
			t.UserFields = append(t.UserFields, fields...)
		}
	}
	slices.Sort(t.UserFields)
	t.UserFields = slices.Compact(t.UserFields)
	return t, nil
}

func (t *Tables) merge(doc []byte) (fields []string, err error) {
	var file struct {
		GPUs   map[string]ast.Node `yaml:"gpus"`
		Models map[string]ast.Node `yaml:"models"`
	}
	if err := yaml.UnmarshalWithOptions(doc, &file, yaml.Strict()); err != nil {
		return nil, err
	}
	for name, node := range file.GPUs {
		given, err := mergeEntry(t.GPUs, name, node)
		if err != nil {
			return nil, fmt.Errorf("gpu %s: %w", name, err)
		}
		fields = append(fields, prefixed("gpus."+name+".", given)...)
	}
	for name, node := range file.Models {
		given, err := mergeEntry(t.Models, name, node)
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", name, err)
		}
		fields = append(fields, prefixed("models."+name+".", given)...)
	}
	return fields, nil
}

// mergeEntry decodes node over the entry of that name and returns the fields it gave.
func mergeEntry[T any](table map[string]T, name string, node ast.Node) ([]string, error) {
	if node == nil {
		return nil, errors.New("entry without fields")
	}
	entry := table[name]
	if err := yaml.NodeToValue(node, &entry, yaml.Strict()); err != nil {
		return nil, err
	}
	table[name] = entry
	var given map[string]any
	if err := yaml.NodeToValue(node, &given); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Keys(given)), nil
}

func prefixed(prefix string, names []string) []string {
	for i := range names {
		names[i] = prefix + names[i]
	}
	return names
}

// GPU finds an entry by its name or by a product name that contains one of its match strings as
// whole words; the longest match wins. A MIG instance is another product than the device it is cut
// from, so only a match string that names it finds it.
func (t *Tables) GPU(product string) (name string, g GPU, err error) {
	name = find(t.GPUs, product, func(g GPU) []string { return g.Match }, sameProduct)
	if name == "" {
		return "", GPU{}, fmt.Errorf("GPU %q: %w; describe it in the table override with %s", product, ErrUnknown, strings.Join(GPU{}.missing(), ", "))
	}
	return name, t.GPUs[name], nil
}

// Model finds an entry by its name or by a served path that contains one of its match strings.
func (t *Tables) Model(path string) (name string, m Model, err error) {
	name = find(t.Models, path, func(m Model) []string { return m.Match }, strings.Contains)
	if name == "" {
		return "", Model{}, fmt.Errorf("model %q: %w; describe it in the table override with %s", path, ErrUnknown, strings.Join(Model{}.missing(), ", "))
	}
	return name, t.Models[name], nil
}

// sameProduct expects both in lower case.
func sameProduct(product, match string) bool {
	const instance = " mig "
	if strings.Contains(product, instance) && !strings.Contains(match, instance) {
		return false
	}
	wordByte := func(s string, at int) bool {
		return at >= 0 && at < len(s) && (s[at] >= 'a' && s[at] <= 'z' || s[at] >= '0' && s[at] <= '9')
	}
	for from := 0; ; {
		at := strings.Index(product[from:], match)
		if at < 0 {
			return false
		}
		at += from
		if !wordByte(product, at-1) && !wordByte(product, at+len(match)) {
			return true
		}
		from = at + 1
	}
}

// find compares in lower case.
func find[T any](table map[string]T, wanted string, match func(T) []string, is func(wanted, match string) bool) string {
	wanted = strings.ToLower(wanted)
	best, length := "", 0
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if wanted == strings.ToLower(name) {
			return name
		}
		for _, m := range match(table[name]) {
			if len(m) > length && is(wanted, strings.ToLower(m)) {
				best, length = name, len(m)
			}
		}
	}
	return best
}

// missing names the fields without which nothing can be predicted.
func (g GPU) missing() []string {
	return unset(field{"bf16_tflops", g.BF16TFLOPS}, field{"hbm_gb", g.HBMGB}, field{"hbm_tbps", g.HBMTBps})
}

type field struct {
	name  string
	value float64
}

func unset(fields ...field) []string {
	var names []string
	for _, f := range fields {
		if f.value <= 0 {
			names = append(names, f.name)
		}
	}
	return names
}
