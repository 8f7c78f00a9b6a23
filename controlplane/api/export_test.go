package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

func TestExport(t *testing.T) {
	boolean := enginev1.KnobType_KNOB_TYPE_BOOL
	knobs := []*enginev1.Knob{
		{Name: "max_num_seqs", Flag: "--max-num-seqs"},
		{Name: "prefix_caching", Flag: "--enable-prefix-caching", NegativeFlag: "--no-enable-prefix-caching", Type: boolean},
		{Name: "chunked", Flag: "--chunked", NegativeFlag: "--no-chunked", Type: boolean},
		{Name: "overlap", Flag: "--overlap", Type: boolean},
		{Name: "kv_dtype", Flag: "--kv-cache-dtype"},
		{Name: "space", Env: "KV_SPACE"},
		{Name: "text", Flag: "--text"},
	}
	r := &commandv1.Recommendation{Group: "chat", Settings: map[string]string{
		"max_num_seqs": "64", "prefix_caching": "true", "chunked": "false", "overlap": "false", "kv_dtype": "fp8_e4m3", "space": "4 GiB", "text": "it's",
	}}
	got, err := exportOf(r, "vllm", knobs)
	if err != nil {
		t.Fatal(err)
	}
	want := Export{
		Engine: "vllm", Group: "chat", Settings: r.GetSettings(),
		Arguments:   []string{"--no-chunked", "--kv-cache-dtype", "fp8_e4m3", "--max-num-seqs", "64", "--enable-prefix-caching", "--text", "it's"},
		Environment: map[string]string{"KV_SPACE": "4 GiB"},
		CommandLine: `KV_SPACE='4 GiB' --no-chunked --kv-cache-dtype fp8_e4m3 --max-num-seqs 64 --enable-prefix-caching --text 'it'\''s'`,
		ConfigFile:  "no-chunked: true\nkv-cache-dtype: fp8_e4m3\nmax-num-seqs: 64\nenable-prefix-caching: true\ntext: it's\n",
		Pod:         "args:\n- --no-chunked\n- --kv-cache-dtype\n- fp8_e4m3\n- --max-num-seqs\n- \"64\"\n- --enable-prefix-caching\n- --text\n- it's\nenv:\n- name: KV_SPACE\n  value: 4 GiB\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if tgi, _ := exportOf(r, "tgi", knobs); tgi.ConfigFile != "" {
		t.Error("TGI reads no configuration file")
	}
	if _, err := exportOf(&commandv1.Recommendation{Settings: map[string]string{"gone": "1"}}, "vllm", knobs); err == nil {
		t.Error("a setting that the engines no longer have is exported")
	}
}

func TestExportRoute(t *testing.T) {
	_, srv := newServer(t)
	status, out := call(t, "POST", srv.URL+"/optimize/batch", `{"group":"chat"}`)
	if status != 200 {
		t.Fatal(status, out)
	}
	status, out = call(t, "GET", srv.URL+"/optimize/recommendations/p-1/export", "")
	if status != 409 && (status != 200 || out["pod"] == nil) {
		t.Errorf("%d %v", status, out)
	}
	if status, _ := call(t, "GET", srv.URL+"/optimize/recommendations/none/export", ""); status != 404 {
		t.Errorf("no such recommendation: %d", status)
	}
}
