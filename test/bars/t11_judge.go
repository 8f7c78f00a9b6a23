package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/analysis"
	"github.com/optiinfra/performance-agent/controlplane/optimizer"
	pkgengine "github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// judged is one span and what the diagnosis said of it.
type judged struct {
	*span
	want, got analysis.Class
	summary   string
	second    bool // the wanted class is the second finding
}

// judge asks the product's own diagnosis about each recorded span and prints how often it was right.
func judge(ctx context.Context, o diagnosisOptions, bin string, out io.Writer) error {
	spans, err := readSpans(o.dir)
	if err != nil {
		return err
	}
	recipe, err := engine.Find(o.kind)
	if err != nil {
		return err
	}
	descriptions := map[string]*pkgengine.Description{}
	for _, s := range sessions {
		if descriptions[s.name], err = describe(ctx, bin, recipe, 0, "", append(slices.Clone(baseFlags), s.flags...)); err != nil {
			return err
		}
	}
	tables, err := perfmodel.Load()
	if err != nil {
		return err
	}
	v := optimizer.New(optimizer.Config{}, nil, nil, tables)
	var all []judged
	for _, s := range spans {
		i := slices.IndexFunc(causes, func(c cause) bool { return c.name == s.Cause })
		if i < 0 {
			continue // a calibration
		}
		j := judged{span: s, want: causes[i].want}
		j.diagnose(v.Diagnose(s.scene(o.kind, descriptions[s.Session], earlier(spans, s))))
		fmt.Fprintf(os.Stderr, "%s-%d (%g): %s: %s\n", s.Cause, s.Repeat, s.Intensity, j.got, j.summary)
		all = append(all, j)
	}
	if len(all) == 0 {
		return fmt.Errorf("%s holds no span to judge", o.dir)
	}
	printDiagnosis(out, all)
	return nil
}

// scene is what the optimizer would look at, had the span just happened.
func (s *span) scene(kind engine.Kind, d *pkgengine.Description, earlier []*fleet.Window) *optimizer.Scene {
	scene := &optimizer.Scene{
		Group: "bar", Engine: string(kind), Model: engine.Model, Hardware: "cpu", Replicas: 1, Description: d,
		Windows: s.windows, Earlier: earlier, Totals: fleet.NewAggregate(), Now: time.Now(),
	}
	for _, w := range s.windows {
		if err := scene.Totals.Add(w); err != nil {
			fmt.Fprintf(os.Stderr, "%s-%d: %v\n", s.Cause, s.Repeat, err) // it counts nowhere
		}
	}
	return scene
}

// earlier are the windows of a healthy while before the span, from the same start of the engine. An
// engine that was started badly has no such past.
func earlier(spans []*span, of *span) (ws []*fleet.Window) {
	for _, s := range spans {
		if s.Cause == calibration && of.Session == s.Session && s.Repeat/10 == of.Repeat {
			ws = append(ws, s.windows...)
		}
	}
	return ws
}

// silentFlag must be named where the engine tells nothing of itself.
const silentFlag = "--disable-log-stats"

func (j *judged) diagnose(found []*commandv1.Finding) {
	j.got, j.summary = analysis.Class(found[0].GetClass()), found[0].GetSummary()
	if j.got == analysis.NotEnoughData && !strings.Contains(j.summary, silentFlag) {
		j.got = "not_enough_data, without the flag"
	}
	j.second = len(found) > 1 && analysis.Class(found[1].GetClass()) == j.want
}

// printDiagnosis prints the bar: top-1 over the injected causes, false alarms over healthy spans, the
// mean F1 of the classes, and a line a cause.
func printDiagnosis(out io.Writer, all []judged) {
	var faulty, right, top2, quiet, alarms int
	for _, j := range all {
		if j.Cause == healthy {
			quiet++
			alarms += count(j.got != analysis.None)
			continue
		}
		faulty++
		right += count(j.got == j.want)
		top2 += count(j.got == j.want || j.second)
	}
	fmt.Fprintf(out, "BAR T11 value=%.0f unit=percent target>=95 of=top1 engine=%q right=%d spans=%d top2=%.0f%%\n", percent(right, faulty), all[0].Engine, right, faulty, percent(top2, faulty))
	fmt.Fprintf(out, "BAR T11.f1 value=%.2f unit=ratio target>=0.93 of=macro\n", macroF1(all))
	fmt.Fprintf(out, "BAR T11.false_alarms value=%.0f unit=percent target<=1 alarms=%d healthy_spans=%d\n", percent(alarms, quiet), alarms, quiet)
	for _, c := range causes {
		var n, ok int
		var said []string
		for _, j := range all {
			if j.Cause == c.name {
				n++
				ok += count(j.got == j.want)
				said = append(said, string(j.got))
			}
		}
		if n > 0 {
			fmt.Fprintf(out, "BAR T11.%s value=%d unit=right of=%d want=%s said=%s\n", c.name, ok, n, c.want, strings.Join(said, ","))
		}
	}
}

func percent(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// macroF1 is the mean over the wanted classes of 2·right/(wanted + said).
func macroF1(all []judged) float64 {
	wanted, said, right := map[analysis.Class]float64{}, map[analysis.Class]float64{}, map[analysis.Class]float64{}
	for _, j := range all {
		wanted[j.want]++
		said[j.got]++
		if j.got == j.want {
			right[j.want]++
		}
	}
	var sum float64
	for class, n := range wanted {
		sum += 2 * right[class] / (n + said[class])
	}
	return sum / float64(max(1, len(wanted)))
}
