package sidecar

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// ErrTestRefused is returned, with the agent's words, for a test that it would not or could not carry
// out.
var ErrTestRefused = errors.New("the agent did not carry the test out")

// askAgainEvery separates attempts to have a test's result: a stream may have broken meanwhile.
const askAgainEvery = 15 * time.Second

// answers hands the results of tests to those who wait for them.
type answers struct {
	mu      sync.Mutex // guards what follows
	waiting map[string]chan *agentv1.Ack
}

// expect registers for a test's answer; done must be called.
func (a *answers) expect(id string) (answer <-chan *agentv1.Ack, done func()) {
	ch := make(chan *agentv1.Ack, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = map[string]chan *agentv1.Ack{}
	}
	a.waiting[id] = ch
	return ch, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.waiting[id] == ch {
			delete(a.waiting, id)
		}
	}
}

// take passes an answer on. One that nobody waits for is dropped: whoever wants it asks again.
func (a *answers) take(ack *agentv1.Ack) {
	if ack.GetTestId() == "" || ack.GetResult() == agentv1.AckResult_ACK_RESULT_DUPLICATE {
		return // a later question gets the answer
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case a.waiting[ack.GetTestId()] <- ack:
	default: // a nil channel, or answered already
	}
}

// LoadTest has an instance's agent carry a load test out and returns its result; asked again under
// the same id, also on another node, it is not run twice. Leader only. It waits until ctx ends for an
// agent that is away. Errors match ErrNotLeader, ErrUnknownInstance or ErrTestRefused.
func (h *Hub) LoadTest(ctx context.Context, instanceID string, test *agentv1.LoadTest) ([]byte, error) {
	return h.test(ctx, instanceID, test.GetTestId(), func() *agentv1.Directive {
		return &agentv1.Directive{Action: &agentv1.Directive_LoadTest{LoadTest: test}}
	})
}

// QualityTest is LoadTest for golden prompts.
func (h *Hub) QualityTest(ctx context.Context, instanceID string, test *agentv1.QualityTest) ([]byte, error) {
	return h.test(ctx, instanceID, test.GetTestId(), func() *agentv1.Directive {
		return &agentv1.Directive{Action: &agentv1.Directive_QualityTest{QualityTest: test}}
	})
}

// CancelTest ends a test. Leader only; errors as of Lease.
func (h *Hub) CancelTest(ctx context.Context, instanceID, testID string) error {
	return h.tell(ctx, instanceID, false, &agentv1.Directive{
		Action: &agentv1.Directive_CancelTest{CancelTest: &agentv1.CancelTest{TestId: testID}},
	})
}

func (h *Hub) test(ctx context.Context, instanceID, id string, directive func() *agentv1.Directive) ([]byte, error) {
	l := h.leading()
	if l == nil {
		return nil, ErrNotLeader
	}
	answer, done := l.answers.expect(id)
	defer done()
	again := time.NewTicker(askAgainEvery)
	defer again.Stop()
	for {
		if err := h.tell(ctx, instanceID, false, directive()); err != nil && !errors.Is(err, ErrNotAttached) {
			return nil, err
		}
		select {
		case ack := <-answer:
			if ack.GetResult() != agentv1.AckResult_ACK_RESULT_ACCEPTED {
				return nil, fmt.Errorf("%w: %s", ErrTestRefused, ack.GetDetail())
			}
			return ack.GetResultJson(), nil
		case <-again.C:
		case <-l.over:
			return nil, ErrNotLeader
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
