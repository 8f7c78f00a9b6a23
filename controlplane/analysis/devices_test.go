package analysis

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// TestDevicesAndEntrance: what GPUs, links, queues at the door and drafts show is named, and what looks
// alike is not.
func TestDevicesAndEntrance(t *testing.T) {
	type figures map[string]float64
	gpu := figures{
		fleet.GPUSMActiveRatio: .7, fleet.GPUTensorActiveRatio: .5, fleet.GPUDRAMActiveRatio: .5, fleet.GPUSMClockRatio: .98,
		fleet.GPUThermalThrottledRatio: 0, fleet.GPUPowerThrottledRatio: 0, fleet.GPUPCIeWidthRatio: 1, fleet.GPUPCIeGenerationRatio: 1, fleet.GPUNVLinksDown: 0,
	}
	and := func(base figures, more figures) figures {
		all := maps.Clone(base)
		maps.Copy(all, more)
		return all
	}
	four := Config{"tensor_parallel": "4"}
	for name, c := range map[string]struct {
		gauges, counters figures
		slow             float64 // tokens take so many times as long; 0: as ever
		config           Config
		want             Class
		says             string
	}{
		"a healthy GPU":                {gauges: gpu, want: None, says: "no remedy"},
		"heat":                         {gauges: and(gpu, figures{fleet.GPUThermalThrottledRatio: .4, fleet.GPUSMClockRatio: .7}), slow: 1.4, want: ThermalThrottle, says: "heat"},
		"power limit":                  {gauges: and(gpu, figures{fleet.GPUPowerThrottledRatio: .8, fleet.GPUSMClockRatio: .8}), slow: 1.2, want: ThermalThrottle, says: "power limit"},
		"power cap without loss":       {gauges: and(gpu, figures{fleet.GPUPowerThrottledRatio: .8, fleet.GPUSMClockRatio: .8}), want: None},
		"held down while idle":         {gauges: and(gpu, figures{fleet.GPUThermalThrottledRatio: .4, fleet.GPUSMClockRatio: .3, fleet.GPUSMActiveRatio: .01}), slow: 1.1, want: None},
		"violation time":               {gauges: gpu, counters: figures{fleet.GPUThermalViolationSeconds: .2}, slow: 1.2, want: ThermalThrottle, says: "20 % of the time"},
		"a narrow link":                {gauges: and(gpu, figures{fleet.GPUPCIeWidthRatio: .5}), want: LinkDegraded, says: "50 % as wide"},
		"slow generation at work":      {gauges: and(gpu, figures{fleet.GPUPCIeGenerationRatio: .5}), want: LinkDegraded, says: "generation"},
		"slow generation while idle":   {gauges: and(gpu, figures{fleet.GPUPCIeGenerationRatio: .25, fleet.GPUSMActiveRatio: .02}), want: None},
		"an NVLink down":               {gauges: and(gpu, figures{fleet.GPUNVLinksDown: 1}), want: LinkDegraded, says: "1 NVLinks are down"},
		"replays":                      {gauges: gpu, counters: figures{fleet.GPUPCIeReplays: 2}, want: LinkDegraded, says: "120 packets a minute"},
		"a replay now and then":        {gauges: gpu, counters: figures{fleet.GPUPCIeReplays: .02}, want: None},
		"ranks wait for each other":    {gauges: and(gpu, figures{fleet.GPUTensorActiveRatio: .2, fleet.GPUDRAMActiveRatio: .2, fleet.GPUSMActiveRatio: .9}), config: four, want: CommunicationBound, says: "ranks wait"},
		"one GPU waits for nobody":     {gauges: and(gpu, figures{fleet.GPUTensorActiveRatio: .2, fleet.GPUDRAMActiveRatio: .2, fleet.GPUSMActiveRatio: .9}), want: None},
		"four GPUs at work":            {gauges: and(gpu, figures{fleet.GPUDRAMActiveRatio: .7}), config: four, want: None},
		"refused though there is room": {counters: figures{"requests_rejected": .5}, want: AdmissionLimited, says: "are refused"},
		"refused with a full batch":    {counters: figures{"requests_rejected": .5}, config: Config{"max_num_seqs": "3"}, want: None},
		"refused once":                 {counters: figures{"requests_rejected": .01}, want: None},
		"open beside the scheduler":    {gauges: figures{fleet.RequestsOpen: 20}, counters: figures{fleet.EngineFrontCPUSeconds: .97}, want: APIBound, says: "speaks HTTP"},
		"open, the front is at ease":   {gauges: figures{fleet.RequestsOpen: 20}, counters: figures{fleet.EngineFrontCPUSeconds: .3}, want: None},
		"drafts that do not pay":       {counters: figures{"spec_drafts": 50, "spec_draft_tokens": 250, "spec_accepted_tokens": 15}, want: SpeculationIneffective, says: "6 % are accepted"},
		"drafts that pay":              {counters: figures{"spec_drafts": 50, "spec_draft_tokens": 250, "spec_accepted_tokens": 100}, want: None},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{"max_num_seqs": "64", "max_num_batched_tokens": "8192"}
			maps.Copy(config, c.config)
			ws := observed(func(_ int, w *fleet.Window) {
				maps.Copy(w.Gauges, c.gauges)
				maps.Copy(w.Counters, c.counters)
				if c.slow > 0 {
					slow(t, w, c.slow)
				}
			})
			got := Analyze(Input{Group: "chat", Replicas: 1, Windows: ws, Config: config, Pace: usualPace}, gains{})
			if got[0].GetClass() != string(c.want) || !strings.Contains(got[0].GetSummary(), c.says) {
				t.Fatalf("primary finding %s: %q; want %s that says %q", got[0].GetClass(), got[0].GetSummary(), c.want, c.says)
			}
		})
	}
}

// TestDevicesUnseen: without a source each of these classes says what it lacks.
func TestDevicesUnseen(t *testing.T) {
	answers := Examine(Input{Windows: usual.windows("a/0"), Config: Config{"tensor_parallel": "2"}})
	for _, class := range []Class{ThermalThrottle, LinkDegraded, CommunicationBound, AdmissionLimited, APIBound, ExpertImbalance} {
		i := slices.IndexFunc(answers, func(a Answer) bool { return a.Class == class })
		if i < 0 || answers[i].Missing == "" || answers[i].Fires {
			t.Errorf("%s: %+v", class, answers[max(i, 0)])
		}
	}
}
