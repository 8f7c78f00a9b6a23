package main

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/optiinfra/performance-agent/agent/report"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

var _ report.Directives = (*agent)(nil)

// Handle gives a directive to the instance it is for. Measuring is done here; what changes the
// engine is the state machine's business.
func (a *agent) Handle(ctx context.Context, d *agentv1.Directive) *agentv1.Ack {
	in := a.byID[d.GetInstanceId()]
	if in == nil {
		return refuse(d, fmt.Sprintf("this agent does not look after %q; it has %s", d.GetInstanceId(), a.instanceNames()))
	}
	var (
		result []byte
		err    error
	)
	switch act := d.GetAction().(type) {
	case *agentv1.Directive_Collect:
		result, err = a.lastWindow(in)
	case *agentv1.Directive_LoadTest:
		result, err = in.loadTest(ctx, act.LoadTest)
		return a.ackTest(in, d, act.LoadTest.GetTestId(), result, err)
	case *agentv1.Directive_QualityTest:
		result, err = in.qualityTest(ctx, act.QualityTest)
		return a.ackTest(in, d, act.QualityTest.GetTestId(), result, err)
	case *agentv1.Directive_CancelTest:
		in.tests.cancel(act.CancelTest.GetTestId()) // one that does not run needs none
	default:
		return in.machine.Handle(ctx, d)
	}
	if err != nil {
		return refuse(d, err.Error())
	}
	return &agentv1.Ack{
		InstanceId: d.GetInstanceId(), Fence: d.GetFence(), Result: agentv1.AckResult_ACK_RESULT_ACCEPTED,
		State: in.machine.State(), ResultJson: result,
	}
}

func refuse(d *agentv1.Directive, why string) *agentv1.Ack {
	return &agentv1.Ack{
		InstanceId: d.GetInstanceId(), Fence: d.GetFence(),
		Result: agentv1.AckResult_ACK_RESULT_REFUSED, Detail: why,
	}
}

// lastWindow is an instance's newest window as JSON.
func (a *agent) lastWindow(in *instance) ([]byte, error) {
	w := a.collector.Last(in.id)
	if w == nil {
		return nil, fmt.Errorf("no window of %s is finished yet", in.id)
	}
	pb, err := w.Proto()
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(pb)
}
