package telemetry

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// packed is a window at rest: a few hundred bytes where the window itself takes twenty thousand. It
// lives in this process alone, so it has no version.
//
// In order: start, epoch, phase, serving; sources; sketches; counters; gauges; steps of a start. Names
// are numbers of a table, numbers are as short as their value allows.
type packed string

// mostNames bounds the table: a lying agent could send ever new names. Those beyond are written out.
const mostNames = 4096

// names numbers the names that windows are full of. Its methods may be called from any goroutine.
type names struct {
	mu  sync.RWMutex // guards what follows
	ids map[string]uint64
	all []string
}

func newNames() *names { return &names{ids: map[string]uint64{}} }

// id of a name, from 1; 0 when the table is full.
func (n *names) id(name string) uint64 {
	n.mu.RLock()
	id := n.ids[name]
	n.mu.RUnlock()
	if id != 0 {
		return id
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if id := n.ids[name]; id != 0 || len(n.all) >= mostNames {
		return id
	}
	n.all = append(n.all, name)
	n.ids[name] = uint64(len(n.all))
	return n.ids[name]
}

func (n *names) name(id uint64) (string, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if id < 1 || id > uint64(len(n.all)) {
		return "", false
	}
	return n.all[id-1], true
}

// pack a window.
func (n *names) pack(w *fleet.Window) packed {
	p := packer{names: n, b: make([]byte, 0, 1024)}
	p.uint(uint64(w.Start.UnixMilli()))
	p.uint(w.Epoch)
	p.uint(uint64(w.Phase))
	p.bool(w.Serving)
	p.uint(uint64(len(w.Sources)))
	for _, s := range w.Sources {
		p.name(s.GetName())
		p.uint(uint64(max(s.GetAgeMs(), 0)))
		p.bool(s.GetStale())
		p.text(s.GetError())
		p.name(s.GetWarning()) // a lasting one is the same in every window
		p.uint(uint64(max(s.GetAnsweredUnixMs(), 0)))
		p.uint(uint64(max(s.GetLagMs(), 0)))
	}
	p.uint(uint64(len(w.Sketches)))
	var scratch []byte
	for _, metric := range slices.Sorted(maps.Keys(w.Sketches)) {
		s := w.Sketches[metric]
		scratch = s.AppendPacked(scratch[:0])
		p.name(metric)
		p.name(w.Origin[metric])
		p.float(s.Sum())
		p.text(string(scratch))
	}
	p.values(w.Counters)
	p.values(w.Gauges)
	p.uint(uint64(len(w.StartSteps)))
	for _, step := range w.StartSteps {
		p.text(step)
	}
	return packed(p.b)
}

type packer struct {
	names *names
	b     []byte
}

func (p *packer) uint(v uint64) { p.b = binary.AppendUvarint(p.b, v) }

// float writes the bytes of a number from its sign on, so that round numbers, whose last bytes are
// zero, are short.
func (p *packer) float(v float64) { p.uint(bits.ReverseBytes64(math.Float64bits(v))) }

func (p *packer) bool(v bool) {
	if v {
		p.b = append(p.b, 1)
		return
	}
	p.b = append(p.b, 0)
}

func (p *packer) text(s string) {
	p.uint(uint64(len(s)))
	p.b = append(p.b, s...)
}

func (p *packer) name(s string) {
	id := p.names.id(s)
	p.uint(id)
	if id == 0 {
		p.text(s)
	}
}

func (p *packer) values(m map[string]float64) {
	p.uint(uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		p.name(k)
		p.float(m[k])
	}
}

// errPacked: the bytes are not of this process's packer.
var errPacked = errors.New("a window at rest is broken")

// unpack a window of an instance.
func (n *names) unpack(instance string, raw packed) (*fleet.Window, error) {
	w := fleet.NewWindow(instance, time.Time{})
	err := n.unpackInto(w, raw, func(metric, origin string, values []byte, sum float64) error {
		s := stats.NewSketch()
		w.Sketches[metric], w.Origin[metric] = s, origin
		return s.MergePacked(values, sum)
	})
	return w, err
}

// unpackInto fills a window, whose maps must be empty, with everything but its sketches: each is handed
// to sketch instead, as long as the call lasts.
func (n *names) unpackInto(w *fleet.Window, raw packed, sketch func(metric, origin string, values []byte, sum float64) error) error {
	u := unpacker{names: n, b: []byte(raw)}
	w.Start = time.UnixMilli(int64(u.uint()))
	w.Epoch, w.Phase, w.Serving = u.uint(), agentv1.Phase(u.uint()), u.bool()
	w.Sources = nil
	for range u.count() {
		w.Sources = append(w.Sources, &agentv1.Source{
			Name: u.name(), AgeMs: int64(u.uint()), Stale: u.bool(), Error: string(u.bytes()),
			Warning: u.name(), AnsweredUnixMs: int64(u.uint()), LagMs: int64(u.uint()),
		})
	}
	for range u.count() {
		metric, origin, sum, values := u.name(), u.name(), u.float(), u.bytes()
		if u.broken {
			break
		}
		if err := sketch(metric, origin, values, sum); err != nil {
			return err
		}
	}
	for range u.count() {
		name, value := u.name(), u.float()
		w.Counters[name] = value
	}
	for range u.count() {
		name, value := u.name(), u.float()
		w.Gauges[name] = value
	}
	w.StartSteps = nil
	for range u.count() {
		w.StartSteps = append(w.StartSteps, string(u.bytes()))
	}
	if u.broken || len(u.b) > 0 {
		return errPacked
	}
	return nil
}

// unpacker reads what packer wrote; after the first fault everything is zero.
type unpacker struct {
	names  *names
	b      []byte
	broken bool
}

func (u *unpacker) uint() uint64 {
	v, n := binary.Uvarint(u.b)
	if n <= 0 {
		u.fail()
		return 0
	}
	u.b = u.b[n:]
	return v
}

// count is a number of things that follow, of at least a byte each.
func (u *unpacker) count() int {
	n := u.uint()
	if n > uint64(len(u.b)) {
		u.fail()
		return 0
	}
	return int(n)
}

func (u *unpacker) float() float64 { return math.Float64frombits(bits.ReverseBytes64(u.uint())) }

func (u *unpacker) bool() bool { return u.uint() != 0 }

func (u *unpacker) bytes() []byte {
	n := u.count()
	out := u.b[:n]
	u.b = u.b[n:]
	return out
}

func (u *unpacker) name() string {
	id := u.uint()
	if id == 0 {
		return string(u.bytes())
	}
	s, ok := u.names.name(id)
	if !ok {
		u.fail()
	}
	return s
}

func (u *unpacker) fail() { u.broken, u.b = true, nil }
