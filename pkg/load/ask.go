package load

// Ask is what somebody wants to have tested.
type Ask struct {
	Group    string            `json:"group"`
	Engine   string            `json:"engine,omitempty" doc:"id or name of the engine to test; it must be drained or for staging, or see consent"`
	Twin     bool              `json:"twin,omitempty" doc:"run a model of the engine in virtual time instead: no engine is touched"`
	Settings map[string]string `json:"settings,omitempty" doc:"the candidate: the complete set of knobs on top of the operator's command line; without any the engine is tested as it runs"`
	Consent  string            `json:"consent,omitempty" maxLength:"200" doc:"who accepts that an engine which serves users gets load; it covers load, not restarts"`
	Traffic  Traffic           `json:"load"`

	Repetitions   int     `json:"repetitions,omitempty" minimum:"0" maximum:"10" doc:"runs of each load; 0: one"`
	Restarts      bool    `json:"restarts,omitempty" doc:"restart the engine between repetitions"`
	Concurrencies []int   `json:"concurrencies,omitempty" maxItems:"12" doc:"closed-loop sweep: one run for each number of clients"`
	FindKnee      bool    `json:"find_knee,omitempty" doc:"find the highest rate at which knee_share of the requests meet the objectives"`
	KneeShare     float64 `json:"knee_share,omitempty" minimum:"0" maximum:"1" doc:"default 0.95"`

	Comparison Rules   `json:"rules,omitzero" doc:"of a validation"`
	Quality    Quality `json:"quality,omitzero" doc:"of a validation; always judged when the candidate may change answers"`
}

// Traffic says what is sent. Times are in seconds.
type Traffic struct {
	Arrivals     string  `json:"arrivals,omitempty" enum:",constant,poisson,gamma,bursty,trace,closed,live" doc:"default poisson; live: the rate, burstiness and lengths that the group has now, per replica"`
	Rate         float64 `json:"rate,omitempty" minimum:"0" doc:"requests per second; of live: a factor on it"`
	CV           float64 `json:"cv,omitempty" minimum:"0"`
	Concurrency  int     `json:"concurrency,omitempty" minimum:"0"`
	Shape        string  `json:"shape,omitempty" doc:"lengths as in a public trace: azure-conv, azure-code or arxiv-summary"`
	PromptTokens float64 `json:"prompt_tokens,omitempty" minimum:"0" doc:"mean; default 512, or the shape's"`
	OutputTokens float64 `json:"output_tokens,omitempty" minimum:"0" doc:"mean; default 128, or the shape's"`
	SharedShare  float64 `json:"shared_share,omitempty" minimum:"0" maximum:"1" doc:"share of prompt tokens that other requests have, too"`
	Trace        []Row   `json:"trace,omitempty" maxItems:"20000"`
	Duration     float64 `json:"duration_seconds,omitempty" minimum:"0" maximum:"600" doc:"measured; default 60"`
	WarmUp       float64 `json:"warm_up_seconds,omitempty" minimum:"0" maximum:"300" doc:"sent first and left out"`
	Seed         uint64  `json:"seed,omitempty" doc:"equal seeds send equal traffic; default 1"`

	TTFT float64 `json:"objective_ttft_seconds,omitempty" minimum:"0"`
	TPOT float64 `json:"objective_tpot_seconds,omitempty" minimum:"0"`
	E2E  float64 `json:"objective_e2e_seconds,omitempty" minimum:"0"`

	StopFailedShare float64 `json:"stop_failed_share,omitempty" minimum:"0" maximum:"1" doc:"end a run when more fail; default 0.5"`
	StopInFlight    int     `json:"stop_in_flight,omitempty" minimum:"0" doc:"end a run when so many are open; default 2000"`
}

// Row is one request of a trace.
type Row struct {
	At           float64 `json:"at_seconds" minimum:"0"`
	PromptTokens int     `json:"prompt_tokens" minimum:"1"`
	OutputTokens int     `json:"output_tokens" minimum:"1"`
}

// Rules of a comparison.
type Rules struct {
	Primary    string  `json:"primary,omitempty" enum:",goodput,throughput,ttft,tpot,e2e" doc:"what the candidate must improve; default goodput with objectives, throughput in a closed loop, else e2e"`
	MinEffect  float64 `json:"min_effect,omitempty" minimum:"0" maximum:"10" doc:"improvement worth having (0.05: 5 %); default the larger of 5 % and twice the noise between restarts"`
	Margin     float64 `json:"margin,omitempty" minimum:"0" maximum:"10" doc:"how much worse the other metrics may be; default 0.10"`
	Replicates int     `json:"replicates,omitempty" minimum:"0" maximum:"6" doc:"runs of the candidate at most; default 6"`
}

// Quality says how answers are judged.
type Quality struct {
	Always  bool         `json:"always,omitempty" doc:"judge answers also of a candidate that should not change them"`
	Prompts []GoldPrompt `json:"prompts,omitempty" maxItems:"2000" doc:"the tenant's own; empty: the built-in set"`
	// Limits; zero fields take the defaults named beside them.
	MaxScoreLoss   float64 `json:"max_score_loss,omitempty" minimum:"0" maximum:"1" doc:"of right answers; default 0.05"`
	MaxLogprobDiff float64 `json:"max_logprob_difference,omitempty" minimum:"0" doc:"mean absolute, on forced tokens, beyond what the baseline differs from itself; default 0.1"`
}

// GoldPrompt is a prompt whose answer is judged.
type GoldPrompt struct {
	ID     string `json:"id,omitempty" maxLength:"100"`
	Prompt string `json:"prompt" minLength:"1" maxLength:"8000"`
	// Expect is what a right answer contains; empty: only agreement with the baseline counts.
	Expect    string `json:"expect,omitempty" maxLength:"400"`
	MaxTokens int    `json:"max_tokens,omitempty" minimum:"0" maximum:"1024"`
}

// Comparison of a candidate with the baseline.
type Comparison struct {
	Verdict string `json:"verdict"` // better, worse, keep_incumbent or not_comparable
	Words   string `json:"words"`
	Primary string `json:"primary"`
	// MinEffect that the verdict asks for, Noise the standard deviation of the primary metric's
	// logarithm between restarts of the baseline.
	MinEffect float64  `json:"min_effect"`
	Noise     float64  `json:"noise"`
	Baselines int      `json:"baseline_runs"`
	Tries     int      `json:"candidate_runs"`
	Metrics   []Metric `json:"metrics"`
}

// Metric compares one figure. Ratios are candidate over baseline, turned so that above 1 is better.
type Metric struct {
	Name      string  `json:"name"`
	Unit      string  `json:"unit"`
	Baseline  float64 `json:"baseline"`
	Candidate float64 `json:"candidate"`
	Ratio     float64 `json:"ratio"`
	Low       float64 `json:"low"` // one-sided 99 % bounds, the wider of both ways to take them
	High      float64 `json:"high"`
	Noise     float64 `json:"noise"`
	// MannWhitney is the two-sided p-value of the shape check on single requests; it assumes
	// independent requests and decides nothing.
	MannWhitney float64 `json:"mann_whitney_p"`
	// Worse: proven worse than the margin allows, Holm's correction over all metrics included.
	Worse bool `json:"worse"`
	// Bound of the objective on this metric and the candidate's bounds for it; 0: none.
	Objective float64 `json:"objective,omitempty"`
	Attained  string  `json:"attained,omitempty"` // yes, no or unproven
}
