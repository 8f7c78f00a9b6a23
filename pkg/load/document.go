package load

import "time"

// Document is a test with all that came of it.
type Document struct {
	ID       string            `json:"id"`
	Kind     string            `json:"kind"` // run or validate
	Group    string            `json:"group"`
	Engine   string            `json:"engine,omitempty"`
	Twin     bool              `json:"twin,omitempty"`
	State    string            `json:"state"` // running, done, failed or cancelled
	Settings map[string]string `json:"settings,omitempty" doc:"of the candidate"`
	Lossy    bool              `json:"lossy,omitempty"`
	Consent  string            `json:"consent,omitempty"`
	Created  time.Time         `json:"created"`
	By       string            `json:"created_by"`
	Ended    *time.Time        `json:"ended,omitempty"`
	// EndReason says why a test failed or was cancelled.
	EndReason    string `json:"end_reason,omitempty"`
	Verdict      string `json:"verdict,omitempty"`
	Summary      string `json:"summary,omitempty"`
	EvidenceHash string `json:"evidence_sha256,omitempty"`

	Comparison *Comparison `json:"comparison,omitempty"`
	Quality    *Judgement  `json:"quality,omitempty"`
	Knee       *Knee       `json:"knee,omitempty"`
	Runs       []Finished  `json:"runs"`
	Notes      []Happened  `json:"notes,omitempty"`
}

// Knee is what the engine carries within the objectives.
type Knee struct {
	// Rate is the highest that was kept, requests per second; 0: none was.
	Rate float64 `json:"rate"`
	// Broken is the lowest rate above it that was not kept; 0: none was found.
	Broken float64 `json:"broken,omitempty"`
	Share  float64 `json:"share"` // of the requests that must meet the objectives
}

// Finished is one run of a test.
type Finished struct {
	Number       int                `json:"number"`
	Arm          string             `json:"arm"`
	Load         string             `json:"load"`
	Epoch        uint64             `json:"epoch,omitempty" doc:"on trial; 0: the last-known-good"`
	Stopped      string             `json:"stopped,omitempty"`
	Quality      bool               `json:"quality,omitempty"`
	Figures      map[string]float64 `json:"figures,omitempty"`
	EvidenceHash string             `json:"evidence_sha256,omitempty"`
	At           time.Time          `json:"at"`
	// Report is absent where it is not asked for, or this node does not have it.
	Report *Report `json:"report,omitempty"`
	// Missing says that the report should be there and is not.
	Missing bool `json:"missing,omitempty"`
}

// Happened is one line of a test's history.
type Happened struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Judgement on the answers of a candidate.
type Judgement struct {
	Passed bool   `json:"passed"`
	Words  string `json:"words"`
	// Ran is false when no judgement was possible; then it has not passed.
	Ran     bool   `json:"ran"`
	Prompts int    `json:"prompts"`
	Primary string `json:"primary"` // score: right answers; agreement: same answers as the baseline
	// Used is after how many prompts the sequential test decided; 0: it did not.
	Used int `json:"used"`

	BaselineScore  float64 `json:"baseline_score"` // share of right answers, of prompts that have one
	CandidateScore float64 `json:"candidate_score"`
	Lost           int     `json:"lost"` // the baseline's answer is right, the candidate's is not
	Won            int     `json:"won"`

	Agreement     float64 `json:"agreement"`      // share of answers that equal the baseline's to the letter
	SelfAgreement float64 `json:"self_agreement"` // of the baseline with itself
	// FirstDivergence is the median share of an answer before it differs, of those that differ.
	FirstDivergence float64 `json:"first_divergence"`
	LogprobDiff     float64 `json:"logprob_difference"` // mean absolute, on forced tokens
	LogprobNoise    float64 `json:"logprob_noise"`      // of the baseline with itself
	ForcedTokens    int     `json:"forced_tokens"`

	LengthRatio    float64   `json:"length_ratio"` // mean length of answers, candidate over baseline
	Refusals       [2]int    `json:"refusals"`     // baseline, candidate
	Empty          [2]int    `json:"empty"`
	Repetitive     [2]int    `json:"repetitive"`
	Failed         [2]int    `json:"failed"`
	Faults         []string  `json:"faults,omitempty"` // what kept it from passing
	WorstExamples  []Example `json:"worst_examples,omitempty"`
	ScoreLossBound float64   `json:"score_loss_bound"` // what the candidate is proven not to lose, at 95 %
}

// Example is a prompt on which the answers differ.
type Example struct {
	ID        string `json:"id"`
	Prompt    string `json:"prompt"`
	Expect    string `json:"expect,omitempty"`
	Baseline  string `json:"baseline"`
	Candidate string `json:"candidate"`
}
