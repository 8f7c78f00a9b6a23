package sim

import (
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// replicated is the log: what a majority holds, and what may yet come to be held.
type replicated struct {
	term    uint64
	entries [][]byte
	// inherited entries were replicated by a deposed leader and are committed by the next one,
	// before anything of its own.
	inherited []*proposal
	inflight  []*proposal
}

// proposal is a command on its way into the log.
type proposal struct {
	typ       commandv1.CommandType
	payload   proto.Message
	requestID string
	actor     string
	raw       []byte
	term      uint64
	// answer hears the result; committed is false when the proposer never learned it.
	answer func(r fsm.Result, committed bool)
}

// encode frames the command as the present leader proposes it.
func (w *world) encode(p *proposal) {
	raw, err := fsm.Encode(p.typ, p.payload, p.requestID, p.actor, w.now+w.lead.skew, w.log.term)
	if err != nil {
		w.broke("sim", "encode %s: %v", p.typ, err)
		return
	}
	p.raw, p.term = raw, w.log.term
}

// propose hands a command to the leader; it is committed a little later, or its fate is decided by a
// change of leader. Without a leader it is lost at once.
func (w *world) propose(typ commandv1.CommandType, payload proto.Message, p proposal) {
	p.typ, p.payload = typ, payload
	if !w.lead.up {
		if p.answer != nil {
			p.answer(fsm.Result{}, false)
		}
		return
	}
	w.encode(&p)
	w.log.inflight = append(w.log.inflight, &p)
	latency := w.between(1, 30)
	if w.chance(0.1) {
		latency = w.between(30, 1500) // a slow disk or a slow follower
	}
	w.after(latency, func() { w.commit(&p) })
}

// begin commits a command that the run starts from.
func (w *world) begin(typ commandv1.CommandType, payload proto.Message) {
	p := &proposal{typ: typ, payload: payload, actor: "operator"}
	w.encode(p)
	w.apply(p)
}

// commit appends a proposal that is still in flight.
func (w *world) commit(p *proposal) {
	for k, other := range w.log.inflight {
		if other == p {
			w.log.inflight = append(w.log.inflight[:k], w.log.inflight[k+1:]...)
			w.apply(p)
			return
		}
	}
}

// apply appends an entry to the log and lets the machine apply it.
func (w *world) apply(p *proposal) {
	w.log.entries = append(w.log.entries, p.raw)
	index := uint64(len(w.log.entries))
	result := w.machine.Apply(index, p.raw)
	w.stats.Entries++
	if result.Fatal != nil {
		w.broke("sim", "entry %d: %v", index, result.Fatal)
		return
	}
	w.narrate(index, p, result)
	w.read()
	changed := w.checkEntry(index, p, result)
	if p.answer != nil {
		p.answer(result, true)
	}
	for _, a := range changed {
		w.pushTo(a)
	}
}

// narrate puts entries of interest into the history.
func (w *world) narrate(index uint64, p *proposal, r fsm.Result) {
	what := p.typ.String()
	id := r.ObjectID
	if s, ok := p.payload.(*commandv1.StepRollout); ok {
		what, id = stepName(s), s.GetRolloutId()
	}
	if r.Refusal != nil {
		w.say("entry %d (term %d): %s %s refused: %s", index, p.term, what, id, r.Refusal.Message)
		return
	}
	w.say("entry %d (term %d): %s %s", index, p.term, what, id)
}

// depose ends the present leadership. What was in flight is lost, inherited by the next leader, or,
// when the same process leads again and its loop goes on, proposed anew in the later term.
func (w *world) depose() {
	if !w.lead.up {
		return
	}
	w.lead.up = false
	w.stats.Crashes++
	w.say("the leader of term %d is gone, %d proposals in flight", w.log.term, len(w.log.inflight))
	flying := w.log.inflight
	w.log.inflight = nil
	var again []*proposal
	for _, p := range flying {
		switch w.rng.IntN(3) {
		case 0:
			if p.answer != nil {
				p.answer(fsm.Result{}, false)
			}
		case 1:
			if p.answer != nil {
				p.answer(fsm.Result{}, false) // the proposer does not know that it will be committed
			}
			p.answer = nil
			w.log.inherited = append(w.log.inherited, p)
		case 2:
			again = append(again, p)
		}
	}
	w.after(w.between(300, 4000), func() { w.elect(again) })
}

// elect begins the next term.
func (w *world) elect(again []*proposal) {
	w.log.term++
	w.stats.Terms++
	inherited := w.log.inherited
	w.log.inherited = nil
	for _, p := range inherited {
		w.say("an entry of term %d is committed by the leader of term %d", p.term, w.log.term)
		w.apply(p)
	}
	w.lead = newLeader(w.log.term, w.between(-2000, 2000))
	w.say("term %d has a leader", w.log.term)
	for _, p := range again {
		w.say("a decision of term %d is proposed again", p.term)
		w.propose(p.typ, p.payload, proposal{requestID: p.requestID, actor: p.actor, answer: p.answer})
	}
	for _, a := range w.agents {
		a.node.dirty = true
	}
}
