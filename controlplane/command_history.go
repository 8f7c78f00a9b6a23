package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

func historyCommand(r *remote) *cobra.Command {
	var group, engine, agent string
	var percentile float64
	var since time.Duration
	cmd := &cobra.Command{
		Use: "history [METRIC]", Short: "one metric over time, with its trend (default ttft_seconds)", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := map[string]string{
				"metric": "ttft_seconds", "group": group, "engine": engine, "agent": agent,
				"percentile": strconv.FormatFloat(percentile, 'g', -1, 64), "from": time.Now().Add(-since).UTC().Format(time.RFC3339),
			}
			if len(args) > 0 {
				query["metric"] = args[0]
			}
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				var p api.Past
				return &p, r.client().Get(ctx, client.Query("/metrics/history", query), &p)
			}, func(w io.Writer, v any) { pastTable(w, v.(*api.Past)) })
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "engines of a group")
	cmd.Flags().StringVar(&engine, "engine", "", "one engine, by id or name")
	cmd.Flags().StringVar(&agent, "agent", "", "engines of an agent, by its id")
	cmd.Flags().Float64Var(&percentile, "percentile", 95, "of a latency")
	cmd.Flags().DurationVar(&since, "since", time.Hour, "how far back")
	return cmd
}

// pastTable prints a line of blocks, its scale and the trend.
func pastTable(w io.Writer, p *api.Past) {
	values := make([]float64, len(p.Points))
	low, high := math.Inf(1), math.Inf(-1)
	for i, x := range p.Points {
		values[i] = math.NaN()
		if x.Value != nil {
			values[i] = *x.Value
			low, high = min(low, values[i]), max(high, values[i])
		}
	}
	name := p.Metric
	switch {
	case p.Percentile != nil:
		name = fmt.Sprintf("%s p%g", p.Metric, *p.Percentile)
	case p.Kind == "counter":
		name += " per second"
	}
	if math.IsInf(low, 0) {
		fmt.Fprintf(w, "%s: nothing was measured from %s to %s\n", name, clock(p.From), clock(p.To))
		return
	}
	fmt.Fprintf(w, "%s from %s to %s, every %v, by %s\n", name, clock(p.From), clock(p.To), time.Duration(p.StepSeconds*float64(time.Second)), p.Source)
	fmt.Fprintf(w, "%s  %.4g to %.4g\n", blocks(values, 100), low, high)
	if t := p.Trend; t != nil {
		fmt.Fprintf(w, "trend: %s, %.3g an hour (%.0f %% interval %.3g to %.3g)\n", t.Direction, t.PerHour, 100*t.Confidence, t.Low, t.High)
	}
}

func clock(t time.Time) string { return t.Local().Format("Jan 2 15:04:05") }

// blocks draws values in at most width characters, each the highest of its share, from zero or the
// lowest value up; a gap is a space.
func blocks(values []float64, width int) string {
	const levels = "▁▂▃▄▅▆▇█"
	steps := []rune(levels)
	per := max(1, (len(values)+width-1)/width)
	tops := []float64{}
	low, high := 0., math.Inf(-1)
	for i := 0; i < len(values); i += per {
		top := math.NaN()
		for _, v := range values[i:min(i+per, len(values))] {
			if math.IsNaN(top) || v > top {
				top = v
			}
		}
		tops = append(tops, top)
		if !math.IsNaN(top) {
			low, high = min(low, top), max(high, top)
		}
	}
	var b strings.Builder
	for _, v := range tops {
		switch {
		case math.IsNaN(v):
			b.WriteByte(' ')
		case high <= low:
			b.WriteRune(steps[0])
		default:
			b.WriteRune(steps[int((v-low)/(high-low)*float64(len(steps)-1)+.5)])
		}
	}
	return b.String()
}
