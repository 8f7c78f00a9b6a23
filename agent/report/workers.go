package report

import (
	"context"
	"sync"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// workers carry directives to the handler: one goroutine per instance for those that change
// something, so that they keep their order, and one each for those that only read, measure or
// extend a lease, which must not wait behind them. They outlive a stream and end with Run's ctx.
type workers struct {
	r      *Reporter
	queues map[string]chan *agentv1.Directive // used by the one receiving goroutine
	wg     sync.WaitGroup
}

// maxQueued directives of one instance; a control plane has at most a handful under way.
const maxQueued = 64

func newWorkers(r *Reporter) *workers {
	return &workers{r: r, queues: map[string]chan *agentv1.Directive{}}
}

func (w *workers) dispatch(ctx context.Context, d *agentv1.Directive) {
	switch d.GetAction().(type) {
	case *agentv1.Directive_Lease, *agentv1.Directive_Collect, *agentv1.Directive_LoadTest, *agentv1.Directive_QualityTest, *agentv1.Directive_CancelTest:
		w.wg.Go(func() { w.handle(ctx, d) })
		return
	}
	q := w.queues[d.GetInstanceId()]
	if q == nil {
		q = make(chan *agentv1.Directive, maxQueued)
		w.queues[d.GetInstanceId()] = q
		w.wg.Go(func() { w.work(ctx, q) })
	}
	select {
	case q <- d:
	default:
		w.answer(&agentv1.Ack{
			InstanceId: d.GetInstanceId(), Fence: d.GetFence(), Result: agentv1.AckResult_ACK_RESULT_REFUSED,
			Detail: "too many directives are waiting for this instance",
		})
	}
}

func (w *workers) work(ctx context.Context, q <-chan *agentv1.Directive) {
	for {
		select {
		case d := <-q:
			w.handle(ctx, d)
		case <-ctx.Done():
			return
		}
	}
}

func (w *workers) handle(ctx context.Context, d *agentv1.Directive) {
	if ack := w.r.handler.Handle(ctx, d); ack != nil {
		w.answer(ack)
	}
}

func (w *workers) answer(ack *agentv1.Ack) {
	w.r.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Ack{Ack: ack}})
}

func (w *workers) wait() { w.wg.Wait() }
