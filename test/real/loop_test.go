//go:build real

package real

import (
	"testing"

	"github.com/optiinfra/performance-agent/test/real/demo/story"
)

// lines writes a story's lines to the test's log.
type lines struct{ t *testing.T }

func (l lines) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

// TestLoop lets the unattended workflow mend each documented mistake on one replica: three times the
// throughput or two thirds less latency, nobody's request lost; two bad proposals are taken back. Bar
// M1r plays the same with two replicas.
func TestLoop(t *testing.T) {
	r := recipe(t)
	for _, scenario := range story.Scenarios {
		t.Run(scenario, func(t *testing.T) {
			o := story.Options{Bin: bin(t), Scenario: scenario, Replicas: 1, Bad: story.NoBad, Out: lines{t}}
			if scenario == "sequences" {
				o.Bad = story.BothBad
			}
			report, err := story.Tell(t.Context(), r, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := report.Verdict(); err != nil {
				t.Error(err)
			}
		})
	}
}
