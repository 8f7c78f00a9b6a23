package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// WhatIfQuestion asks what a configuration would do.
type WhatIfQuestion struct {
	Group             string            `json:"group,omitempty" doc:"group whose engines, traffic and calibration to take; without one, model and hardware"`
	Engine            string            `json:"engine,omitempty" enum:"vllm,sglang,tgi"`
	Model             string            `json:"model,omitempty"`
	Hardware          string            `json:"hardware,omitempty" example:"h100-sxm"`
	Replicas          int               `json:"replicas,omitempty" minimum:"0" doc:"0: as many as the group has, else one"`
	RequestsPerSecond float64           `json:"requests_per_second,omitempty" minimum:"0" doc:"load to answer for, of all replicas together"`
	PromptTokens      float64           `json:"prompt_tokens,omitempty" minimum:"0" doc:"mean per request; 0: the group's"`
	OutputTokens      float64           `json:"output_tokens,omitempty" minimum:"0" doc:"mean per request; 0: the group's"`
	PrefixHitRate     float64           `json:"prefix_hit_rate,omitempty" minimum:"0" maximum:"1"`
	Settings          map[string]string `json:"settings,omitempty" doc:"on top of what runs, by the engine's knob names or neutral ones"`
	TTFTSeconds       float64           `json:"objective_ttft_seconds,omitempty" minimum:"0" doc:"on the 95th percentile; none of the three: the group's"`
	TPOTSeconds       float64           `json:"objective_tpot_seconds,omitempty" minimum:"0"`
	E2ESeconds        float64           `json:"objective_e2e_seconds,omitempty" minimum:"0"`
}

// WhatIf is the answer. Intervals hold 90 % of the predictions.
type WhatIf struct {
	Settings map[string]string `json:"settings" doc:"in effect, by neutral name"`
	Replicas int               `json:"replicas"`
	GPUs     int               `json:"gpus_per_replica"`
	Notes    []string          `json:"notes" doc:"what the answer rests on, assumptions included"`
	Capacity WhatIfCapacity    `json:"capacity"`
	Curve    []WhatIfPoint     `json:"curve" doc:"latencies over loads, of all replicas together"`
	Pareto   []WhatIfPareto    `json:"pareto" doc:"tokens per user against tokens per GPU"`
}

// WhatIfCapacity says how much fits.
type WhatIfCapacity struct {
	RequestsPerSecond Predicted `json:"requests_per_second" doc:"within the objectives, of all replicas together; without objectives, before the queue grows without end"`
	Users             Predicted `json:"users" doc:"requests open at once within the objectives, of all replicas together"`
	ReplicasNeeded    int       `json:"replicas_needed,omitempty" doc:"for requests_per_second of the question"`
	Why               string    `json:"why" doc:"what limits, or why nothing fits"`
}

// WhatIfPoint is a load and what it would see.
type WhatIfPoint struct {
	RequestsPerSecond float64              `json:"requests_per_second"`
	Meets             bool                 `json:"meets_objectives"`
	Predicted         map[string]Predicted `json:"predicted"`
}

// WhatIfPareto is a number of users of a replica and what each and the GPUs get.
type WhatIfPareto struct {
	Users                  int     `json:"users"`
	TokensPerSecondPerUser float64 `json:"tokens_per_second_per_user"`
	TokensPerSecondPerGPU  float64 `json:"tokens_per_second_per_gpu"`
	Best                   bool    `json:"best" doc:"no other point is better in both"`
}

// Oracle answers questions in virtual time. It runs on the leader and changes nothing.
type Oracle interface {
	// WhatIf returns ErrNotFound for an unknown group, and ErrQuestion for a question that cannot be
	// answered as it is put.
	WhatIf(ctx context.Context, q WhatIfQuestion) (*WhatIf, error)
}

func (s *Server) whatIfRoutes() {
	o := op(http.MethodPost, "/optimize/simulate", "simulate", "What a configuration would do: predicted latencies over loads, what fits, tokens per user against tokens per GPU", "optimize")
	huma.Register(s.api, o, func(ctx context.Context, in *struct{ Body WhatIfQuestion }) (*body[WhatIf], error) {
		w, err := s.oracle.WhatIf(ctx, in.Body)
		if err != nil {
			return nil, fromError(err)
		}
		return ok(s, *w)
	})
}
