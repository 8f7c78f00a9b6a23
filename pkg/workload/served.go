package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"
)

// Served is a request together with when an engine got to it: one line of a per-request log. Times that
// the log does not have are zero.
type Served struct {
	Request
	Arrived    time.Time
	Scheduled  time.Time // first admitted to a step
	FirstToken time.Time
	End        time.Time // last token
	Cached     int       // prompt tokens found in the prefix cache
}

// ServedRows are the lines of a per-request log, read one by one in the order of the file. An error ends
// them; it wraps ErrFormat and names the line.
type ServedRows = iter.Seq2[Served, error]

// servedLine is a line of either JSON form. Times are seconds on one clock.
//
// The project's own form has: arrived (required), prompt_tokens and output_tokens (required), and where
// known scheduled, first_token, end, cached_tokens, client, prefix (hashes of the prompt's leading blocks)
// and prefix_block (tokens of one block).
//
// LLMServingSim's has: input_toks, output_toks, and queued_ts, scheduled_ts, first_token_ts, last_token_ts
// on one clock; arrival_time is on another and counts only where queued_ts is absent.
type servedLine struct {
	Arrived      *float64 `json:"arrived"`
	PromptTokens int      `json:"prompt_tokens"`
	OutputTokens int      `json:"output_tokens"`
	Scheduled    float64  `json:"scheduled"`
	FirstToken   float64  `json:"first_token"`
	End          float64  `json:"end"`
	CachedTokens int      `json:"cached_tokens"`
	Client       string   `json:"client"`
	Prefix       []uint64 `json:"prefix"`
	PrefixBlock  int      `json:"prefix_block"`

	QueuedTS     *float64 `json:"queued_ts"`
	ArrivalTime  *float64 `json:"arrival_time"`
	InputToks    int      `json:"input_toks"`
	OutputToks   int      `json:"output_toks"`
	ScheduledTS  float64  `json:"scheduled_ts"`
	FirstTokenTS float64  `json:"first_token_ts"`
	LastTokenTS  float64  `json:"last_token_ts"`
}

// ServedJSONL streams a per-request log with one object per line, in the project's own form or in that
// of LLMServingSim.
func ServedJSONL(r io.Reader) ServedRows {
	return func(yield func(Served, error) bool) {
		err := eachLine(r, func(text []byte) (bool, error) {
			var line servedLine
			if err := json.Unmarshal(text, &line); err != nil {
				return false, err
			}
			s, err := line.served()
			if err != nil {
				return false, err
			}
			return yield(s, nil), nil
		})
		if err != nil {
			yield(Served{}, err)
		}
	}
}

// served brings LLMServingSim's fields into the own form's place and checks the outcome.
func (l servedLine) served() (Served, error) {
	sameClock := true
	if l.Arrived == nil {
		l.Arrived = l.QueuedTS
		if l.Arrived == nil {
			l.Arrived, sameClock = l.ArrivalTime, false
		}
		l.PromptTokens, l.OutputTokens = l.InputToks, l.OutputToks
		l.Scheduled, l.FirstToken, l.End = l.ScheduledTS, l.FirstTokenTS, l.LastTokenTS
	}
	if l.Arrived == nil {
		return Served{}, errors.New("none of arrived, queued_ts, arrival_time")
	}
	if !sameClock {
		l.Scheduled, l.FirstToken, l.End = 0, 0, 0
	}
	s := Served{
		Request: Request{PromptTokens: l.PromptTokens, OutputTokens: l.OutputTokens, Client: l.Client, Prefix: l.Prefix, PrefixBlock: l.PrefixBlock},
		Cached:  l.CachedTokens,
	}
	return s, s.times(*l.Arrived, l.Scheduled, l.FirstToken, l.End)
}

// times sets what happened when, in seconds on one clock, and refuses what cannot have happened.
func (s *Served) times(arrived, scheduled, first, end float64) error {
	if err := s.plausible(arrived); err != nil {
		return err
	}
	last := arrived
	for _, v := range []struct {
		name string
		at   float64
		to   *time.Time
	}{{"scheduled", scheduled, &s.Scheduled}, {"first_token", first, &s.FirstToken}, {"end", end, &s.End}} {
		if v.at == 0 {
			continue // not in the log
		}
		if !(v.at >= last) || v.at > latest {
			return fmt.Errorf("%s at %g s, after %g s", v.name, v.at, last)
		}
		*v.to, last = seconds(v.at), v.at
	}
	s.Arrived = seconds(arrived)
	if s.Cached < 0 || s.Cached > s.PromptTokens {
		return fmt.Errorf("%d of %d prompt tokens cached", s.Cached, s.PromptTokens)
	}
	if s.PrefixBlock < 0 || s.PrefixBlock > maxTokens || len(s.Prefix) > 0 && s.PrefixBlock == 0 {
		return fmt.Errorf("prefix in blocks of %d tokens", s.PrefixBlock)
	}
	return nil
}

// ServedCSV streams a per-request log with the columns arrived, prompt_tokens, output_tokens and, where
// known, scheduled, first_token, end, cached_tokens, client: the project's own form without prefixes.
func ServedCSV(r io.Reader) ServedRows {
	return func(yield func(Served, error) bool) {
		err := eachRecord(r, []string{"arrived", "prompt_tokens", "output_tokens"}, func(field func(string) string) (bool, error) {
			s, err := servedFields(field)
			if err != nil {
				return false, err
			}
			return yield(s, nil), nil
		})
		if err != nil {
			yield(Served{}, err)
		}
	}
}

func servedFields(field func(string) string) (s Served, err error) {
	if s.Request, err = lengths(field("prompt_tokens"), field("output_tokens")); err != nil {
		return s, err
	}
	s.Client = field("client")
	if text := field("cached_tokens"); text != "" {
		if s.Cached, err = tokenCount(text); err != nil {
			return s, err
		}
	}
	var at [4]float64
	for i, name := range []string{"arrived", "scheduled", "first_token", "end"} {
		text := field(name)
		if text == "" && i > 0 {
			continue
		}
		if at[i], err = strconv.ParseFloat(text, 64); err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, s.times(at[0], at[1], at[2], at[3])
}

// ReadServedCSV reads the requests of a log as ServedCSV has it.
func ReadServedCSV(r io.Reader) ([]Request, error) {
	return collect(func(yield func(Row, error) bool) {
		for s, err := range ServedCSV(r) {
			if !yield(Row{s.Arrived, s.Request}, err) {
				return
			}
		}
	})
}
