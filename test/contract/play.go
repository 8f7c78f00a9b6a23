package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	patience  = 30 * time.Second      // for what has to come
	soon      = time.Second           // within which a refusal comes
	silence   = 2 * time.Second       // after which an answer counts as held back
	interval  = 50 * time.Millisecond // between looks
	startTime = 4 * time.Minute       // a real engine imports for long
	longest   = 1200                  // tokens of a stream that outlasts what happens to it
	chatting  = `"messages":[{"role":"user","content":"how are you"}]`
	counted   = `"stream":true,"stream_options":{"include_usage":true}`
)

// Play plays the script to an engine and returns what was seen; it ends with the engine's exit. What
// does not come in time is a fact too.
func Play(ctx context.Context, s Subject) Facts {
	p := &player{Subject: s, dialect: dialects[s.Kind]}
	p.client.Transport = &http.Transport{DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(ctx, startTime+5*time.Minute)
	defer cancel()
	p.start(ctx)
	p.metrics(ctx, "metrics before the first request")
	for _, c := range append(slices.Clone(everybody), p.calls...) {
		p.call(ctx, c)
	}
	p.count(ctx)
	p.abort(ctx)
	p.overflow(ctx)
	p.metrics(ctx, "metrics after traffic")
	p.openMetrics(ctx)
	p.drain(ctx)
	return p.facts
}

type player struct {
	Subject
	dialect
	client  http.Client
	prompts atomic.Int64 // made so far: none is like another
	facts   Facts
}

func (p *player) note(step, name, value string) {
	if value == "" {
		value = "(empty)"
	}
	p.facts = append(p.facts, Fact{step, name, value})
}

// call is one request. PROMPT in its body stands for 20 tokens, LONG for more than the context holds.
type call struct {
	name, method, path, body string
}

// everybody gets these.
var everybody = []call{
	{name: "health", method: "GET", path: "/health"},
	{name: "version", method: "GET", path: "/version"},
	{name: "models", method: "GET", path: "/v1/models"},
	{name: "unknown route", method: "GET", path: "/nowhere"},
	{name: "wrong method", method: "GET", path: "/v1/completions"},
	{name: "completion", path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":5,"ignore_eos":true,"temperature":0}`},
	{name: "completion, streamed", path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":5,"ignore_eos":true,"temperature":0,"stream":true}`},
	{name: "completion, usage", path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":5,"ignore_eos":true,"temperature":0,` + counted + `}`},
	{name: "completion, usage in each event", path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":2,"ignore_eos":true,"temperature":0,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`},
	{name: "chat", path: "/v1/chat/completions", body: `{"model":"tiny",` + chatting + `,"max_tokens":5,"ignore_eos":true,"temperature":0}`},
	{name: "chat, usage", path: "/v1/chat/completions", body: `{"model":"tiny",` + chatting + `,"max_tokens":5,"ignore_eos":true,"temperature":0,` + counted + `}`},
	{name: "unknown model", path: "/v1/completions", body: `{"model":"stranger","prompt":PROMPT,"max_tokens":1,"temperature":0}`},
	{name: "not JSON", path: "/v1/completions", body: `{`},
	{name: "no prompt", path: "/v1/completions", body: `{"model":"tiny","max_tokens":1}`},
	{name: "no tokens wanted", path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":-1}`},
	{name: "too long", path: "/v1/completions", body: `{"model":"tiny","prompt":LONG,"max_tokens":1}`},
	{name: "too long, streamed", path: "/v1/completions", body: `{"model":"tiny","prompt":LONG,"max_tokens":1,"stream":true}`},
	{name: "too long with its answer", path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":2040,"ignore_eos":true}`},
}

// prompt of n tokens that none before began with.
func (p *player) prompt(n int) string {
	made := int(p.prompts.Add(1))
	ids, words := make([]string, n), make([]string, n)
	for i := range n {
		ids[i] = strconv.Itoa(10 + (made*31+i*7)%1000)
		words[i] = "w" + ids[i]
	}
	if p.texts {
		return strconv.Quote(strings.Join(words, " "))
	}
	return "[" + strings.Join(ids, ",") + "]"
}

// send makes a request; the answer's body is the caller's to close.
func (p *player) send(ctx context.Context, c call) (*http.Response, error) {
	method := c.method
	if method == "" {
		method = http.MethodPost
	}
	body := strings.NewReplacer("PROMPT", p.prompt(20), "LONG", p.prompt(2100)).Replace(c.body)
	req, err := http.NewRequestWithContext(ctx, method, p.URL+c.path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return p.client.Do(req)
}

// call makes a request and notes all of its answer.
func (p *player) call(ctx context.Context, c call) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := p.send(ctx, c)
	if err != nil {
		p.note(c.name, "status", failure(err))
		return
	}
	defer res.Body.Close()
	kind := res.Header.Get("Content-Type")
	p.note(c.name, "status", strconv.Itoa(res.StatusCode))
	p.note(c.name, "type", kind)
	if strings.HasPrefix(kind, "text/event-stream") {
		shapes, end := events(res.Body, func() {})
		p.note(c.name, "events", c.countless(strings.Join(shapes, "\n")))
		p.note(c.name, "end", end)
		return
	}
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		p.note(c.name, "body", failure(err))
		return
	}
	p.note(c.name, "body", c.countless(shape(raw)))
}

var promptCounts = regexp.MustCompile(`((?:prompt|total)_tokens):\d+`)

// countless hides how many tokens a text has, which is the tokenizer's business.
func (c call) countless(shown string) string {
	if strings.Contains(c.body, "PROMPT") {
		return shown
	}
	return promptCounts.ReplaceAllString(shown, "$1:#")
}

// failure names what happened to a request without an answer.
func failure(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case os.IsTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return "silence"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut"
	}
	return err.Error()
}

// start watches the port and /health until both answer 200, then reads the log.
func (p *player) start(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var port, health []string
	var both sync.WaitGroup
	both.Go(func() { port = p.outcomes(ctx, "/v1/models", silence) })
	both.Go(func() { health = p.outcomes(ctx, "/health", startTime) })
	both.Wait()
	p.note("start", "port", strings.Join(port, ", "))
	p.note("start", "health", strings.Join(health, ", "))
	last := p.log[len(p.log)-1]
	wait(ctx, patience, func() bool { at, _ := last.find(p.Log()); return at >= 0 })
	log := p.Log()
	where := map[string]int{}
	for _, f := range p.log {
		at, text := f.find(log)
		p.note("start", "log of "+f.name, text)
		where[f.name] = at
	}
	maps.DeleteFunc(where, func(_ string, at int) bool { return at < 0 })
	inOrder := slices.SortedFunc(maps.Keys(where), func(a, b string) int { return where[a] - where[b] })
	p.note("start", "log in order", strings.Join(inOrder, ", "))
}

// outcomes of one request after the other until one is answered 200; alike ones in a row once.
func (p *player) outcomes(ctx context.Context, path string, limit time.Duration) (seen []string) {
	for ctx.Err() == nil {
		now := p.outcome(ctx, call{method: "GET", path: path}, limit)
		if len(seen) == 0 || seen[len(seen)-1] != now {
			seen = append(seen, now)
		}
		select {
		case <-p.Exited:
			return append(seen, "exit")
		default:
		}
		if now == "200" {
			return seen
		}
		time.Sleep(interval)
	}
	return append(seen, "never 200")
}

// outcome is a status, or how it failed.
func (p *player) outcome(ctx context.Context, c call, limit time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	res, err := p.send(ctx, c)
	if err != nil {
		return failure(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return failure(err)
	}
	return strconv.Itoa(res.StatusCode)
}

// wait asks until yes, or until the limit has passed.
func wait(ctx context.Context, limit time.Duration, yes func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !yes() {
		if ctx.Err() != nil {
			return false
		}
		time.Sleep(interval)
	}
	return true
}

// get reads the metrics page.
func (p *player) get(ctx context.Context, accept string) (kind, text string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/metrics", http.NoBody)
	if err != nil {
		return err.Error(), ""
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return failure(err), ""
	}
	defer res.Body.Close()
	raw, _ := io.ReadAll(res.Body)
	return res.Header.Get("Content-Type"), string(raw)
}

// metrics notes every family of the page.
func (p *player) metrics(ctx context.Context, step string) {
	kind, text := p.get(ctx, "")
	p.note(step, "type", kind)
	families := readPage(text).families()
	p.note(step, "empty", strconv.FormatBool(len(families) == 0))
	for _, f := range slices.Sorted(maps.Keys(families)) {
		p.note(step, f, families[f])
	}
}

// openMetrics asks for the other format, as Prometheus does by default.
func (p *player) openMetrics(ctx context.Context) {
	const step = "OpenMetrics"
	kind, text := p.get(ctx, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
	p.note(step, "type", kind)
	prefixes := map[string]bool{}
	for _, s := range readPage(text).samples {
		if end := strings.IndexAny(s.name, ":_"); end >= 0 && !slices.Contains([]string{"python", "process", "http"}, s.name[:end]) {
			prefixes[s.name[:end+1]] = true
		}
	}
	p.note(step, "samples begin with", strings.Join(slices.Sorted(maps.Keys(prefixes)), " "))
	p.note(step, "ends with # EOF", strconv.FormatBool(strings.HasSuffix(strings.TrimSpace(text), "# EOF")))
}

func (p *player) page(ctx context.Context) page {
	_, text := p.get(ctx, "")
	return readPage(text)
}

// count notes what a request of 20 and 5 tokens adds to the counters.
func (p *player) count(ctx context.Context) {
	before := p.page(ctx)
	if got := p.outcome(ctx, call{path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":5,"ignore_eos":true,"temperature":0,` + counted + `}`}, patience); got != "200" {
		p.note("counters", "status", got)
	}
	after := before
	wait(ctx, patience, func() bool {
		after = p.page(ctx)
		return after.sum(p.counters[0]) > before.sum(p.counters[0])
	})
	for _, c := range p.counters {
		p.note("counters", c, fmt.Sprintf("%+g", after.sum(c)-before.sum(c)))
	}
}

// stream is a long request under way.
type stream struct {
	cancel context.CancelFunc
	first  chan struct{} // closed with the first event
	done   chan struct{} // closed at the end; the rest is there then
	status string
	shapes []string
	end    string
	events atomic.Int64
}

func (p *player) stream(ctx context.Context, tokens int) *stream {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{cancel: cancel, first: make(chan struct{}), done: make(chan struct{})}
	body := fmt.Sprintf(`{"model":"tiny","prompt":%s,"max_tokens":%d,"ignore_eos":true,"temperature":0,%s}`, p.prompt(20), tokens, counted)
	go func() {
		defer close(s.done)
		res, err := p.send(ctx, call{path: "/v1/completions", body: body})
		if err != nil {
			s.status, s.end = failure(err), "cut"
			return
		}
		defer res.Body.Close()
		s.status = strconv.Itoa(res.StatusCode)
		if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
			raw, _ := io.ReadAll(res.Body)
			s.shapes, s.end = []string{shape(raw)}, "not a stream"
			return
		}
		s.shapes, s.end = events(res.Body, func() {
			if s.events.Add(1) == 1 {
				close(s.first)
			}
		})
	}()
	return s
}

// abort notes what a client's leaving does to the counters.
func (p *player) abort(ctx context.Context) {
	before := p.page(ctx)
	s := p.stream(ctx, longest)
	select {
	case <-s.first:
	case <-s.done:
	}
	s.cancel()
	<-s.done
	after := before
	wait(ctx, 5*silence, func() bool {
		after = p.page(ctx)
		return after.sum(p.aborted) > before.sum(p.aborted)
	})
	wait(ctx, silence, func() bool { // the other counter may move a little later
		after = p.page(ctx)
		return after.sum(p.counters[0]) > before.sum(p.counters[0])
	})
	p.note("client leaves", p.aborted, fmt.Sprintf("%+g", after.sum(p.aborted)-before.sum(p.aborted)))
	p.note("client leaves", p.counters[0], fmt.Sprintf("%+g", after.sum(p.counters[0])-before.sum(p.counters[0])))
}

// overflow fills the engine until it refuses a stream, then tries one that is not streamed.
func (p *player) overflow(ctx context.Context) {
	const step, most = "overflow", 8
	var held []*stream
	for len(held) < most {
		s := p.stream(ctx, longest)
		held = append(held, s)
		select {
		case <-s.done:
		case <-time.After(soon):
			continue
		}
		p.note(step, "requests taken", strconv.Itoa(len(held)-1))
		p.note(step, "streamed status", s.status)
		p.note(step, "streamed events", strings.Join(s.shapes, "\n"))
		p.note(step, "streamed end", s.end)
		p.call(ctx, call{name: step, path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":5}`})
		p.note(step, "health", p.outcome(ctx, call{method: "GET", path: "/health"}, patience))
		break
	}
	for _, s := range held {
		s.cancel()
		<-s.done
	}
	if len(held) == most {
		p.note(step, "requests taken", fmt.Sprintf("%d and more", most))
	}
	free := func() bool {
		return p.outcome(ctx, call{path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":1}`}, patience) == "200"
	}
	if !wait(ctx, patience, free) {
		p.note(step, "afterwards", "no request is served")
	}
}

// drain sends SIGTERM amid a stream and looks at everything until the exit.
func (p *player) drain(ctx context.Context) {
	const step = "drain"
	s := p.stream(ctx, longest)
	defer s.cancel()
	select {
	case <-s.first:
	case <-s.done:
	}
	p.Terminate()
	form := pattern{form: p.draining}
	wait(ctx, patience, func() bool { at, _ := form.find(p.Log()); return at >= 0 })
	_, text := form.find(p.Log())
	p.note(step, "log", text)
	p.note(step, "health", p.outcome(ctx, call{method: "GET", path: "/health"}, patience))
	p.call(ctx, call{name: step, path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":5,"ignore_eos":true,"temperature":0}`})
	p.note(step, "newcomers", strings.Join(p.newcomers(ctx, s), ", "))
	<-s.done
	p.note(step, "the stream that ran", s.end)
	select {
	case <-p.Exited:
		p.note(step, "exit code", strconv.Itoa(p.ExitCode()))
	case <-time.After(2 * patience):
		p.note(step, "exit code", "does not exit")
	}
}

// newcomers are what requests get while the stream runs; alike ones in a row once.
func (p *player) newcomers(ctx context.Context, s *stream) (seen []string) {
	for {
		now := p.outcome(ctx, call{path: "/v1/completions", body: `{"model":"tiny","prompt":PROMPT,"max_tokens":1}`}, patience)
		select {
		case <-s.done:
			return seen // it may have come after the drain
		default:
		}
		if len(seen) == 0 || seen[len(seen)-1] != now {
			seen = append(seen, now)
		}
		time.Sleep(interval)
	}
}
