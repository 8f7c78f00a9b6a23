package optimizer

import (
	"math"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/workload"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// capacityAge is how long a group's calibrated view may be used before it is made anew.
const capacityAge = 10 * time.Second

// yardstick is a group's traffic and calibration, kept for a few seconds: capacity is asked for
// each replica every second of a rollout.
type yardstick struct {
	at      time.Time
	scene   *Scene
	traffic traffic
	cal     *calibration
}

// TokensPerSecond is what a replica could sustain with the settings it runs, in tokens per second,
// prompt and generated together, on its group's traffic. A group without traffic is measured on
// the lengths of a public conversation trace. ok is false when nothing can be predicted.
func (v *Service) TokensPerSecond(i *commandv1.Instance) (tokens float64, ok bool) {
	y := v.yardstick(i.GetGroup())
	if y == nil {
		return 0, false
	}
	neutral := map[string]string{}
	body := v.machine.Body(i.GetState().GetRunningHash()).GetBody().GetSettings()
	for _, k := range y.scene.Description.GetKnobs() {
		if k.GetNeutral() == "" || k.GetIgnoredBecause() != "" {
			continue
		}
		for _, from := range []map[string]string{body, i.GetEffective(), i.GetBaseSettings()} {
			if value := from[k.GetName()]; value != "" {
				neutral[k.GetNeutral()] = value
				break
			}
		}
	}
	rate, ok := y.maxRate(neutral)
	return rate * (y.traffic.prompt + y.traffic.output), ok
}

// maxRate is the median over the draws of what one replica sustains, in requests per second.
func (y *yardstick) maxRate(neutral map[string]string) (float64, bool) {
	setup := setupOf(y.scene, neutral)(y.cal.gpu, y.cal.model)
	setup.KVTokens = y.scene.kvTokens()
	var rates []float64
	for _, l := range y.cal.laws {
		n := float64(setup.MaxNumSeqs)
		if setup.KVTokens > 0 {
			n = math.Max(1, math.Min(n, float64(setup.KVTokens)/(y.traffic.prompt+y.traffic.output/2)))
		}
		rates = append(rates, l.maxRate(n, float64(setup.MaxBatchedTokens), y.traffic))
	}
	for _, c := range y.cal.draws {
		p, err := perfmodel.New(setup, c)
		if err != nil {
			return 0, false
		}
		rate, err := p.MaxRate(perfmodel.Traffic{PromptTokens: y.traffic.prompt, OutputTokens: y.traffic.output, PrefixHitRate: y.traffic.hit})
		if err != nil {
			return 0, false
		}
		rates = append(rates, rate)
	}
	slices.Sort(rates)
	return rates[len(rates)/2], true
}

func (v *Service) yardstick(group string) *yardstick {
	v.mu.Lock()
	defer v.mu.Unlock()
	if y := v.yardsticks[group]; y != nil && v.now().Sub(y.at) < capacityAge {
		return y
	}
	s, err := v.scene(group, v.cfg.Span)
	if err != nil {
		return nil
	}
	t, err := s.traffic()
	if err != nil {
		if t, err = publicTraffic(); err != nil {
			return nil
		}
	}
	cal, err := v.calibrate(s, setupOf(s, nil), s.operatingPoint(t), t)
	if err != nil {
		return nil
	}
	y := &yardstick{at: v.now(), scene: s, traffic: t, cal: cal}
	v.yardsticks[group] = y
	return y
}

// publicTraffic has the mean lengths of the trace that stands in for unknown traffic.
func publicTraffic() (traffic, error) {
	spec, err := workload.Named(trafficShape)
	if err != nil {
		return traffic{}, err
	}
	return traffic{prompt: spec.Prompt.Mean(), output: spec.Output.Mean()}, nil
}
