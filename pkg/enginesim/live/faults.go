package live

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Faults are misbehaviours that a test asks for. The zero value has none.
type Faults struct {
	CrashAfter int           // the process exits when it accepts this many requests
	HangAfter  int           // steps stop ending when it accepts this many requests
	SlowFrom   time.Duration // since serving began
	SlowFactor float64       // steps take this much longer from SlowFrom on; 0: no change
	Output     Output

	crash func(code int)
	hung  *atomic.Bool
}

// Output tells what generated text is like.
type Output string

// The kinds of output.
const (
	Normal Output = ""
	NaN    Output = "nan"   // logits are not numbers: every token is the same
	Empty  Output = "empty" // every token is the empty text
)

// ParseFaults reads specifications: crash@40, hang@40 (requests), slow@10s:2.5, nan, empty.
func ParseFaults(specs []string) (Faults, error) {
	f := Faults{crash: os.Exit, hung: new(atomic.Bool)}
	for _, spec := range specs {
		if err := f.add(spec); err != nil {
			return f, fmt.Errorf("fault %q: %w (want crash@N, hang@N, slow@DURATION:FACTOR, nan or empty)", spec, err)
		}
	}
	return f, nil
}

func (f *Faults) add(spec string) (err error) {
	kind, arg, _ := strings.Cut(spec, "@")
	switch kind {
	case "crash":
		f.CrashAfter, err = strconv.Atoi(arg)
	case "hang":
		f.HangAfter, err = strconv.Atoi(arg)
	case "slow":
		from, factor, _ := strings.Cut(arg, ":")
		if f.SlowFrom, err = time.ParseDuration(from); err == nil {
			f.SlowFactor, err = strconv.ParseFloat(factor, 64)
		}
	case string(NaN), string(Empty):
		f.Output = Output(kind)
	default:
		err = fmt.Errorf("unknown kind %q", kind)
	}
	return err
}

func (f *Faults) accepted(n int, log *slog.Logger) {
	if f.HangAfter > 0 && n == f.HangAfter {
		log.Warn("planted fault: steps no longer end", "requests", n)
		f.hung.Store(true)
	}
	if f.CrashAfter > 0 && n == f.CrashAfter {
		log.Error("planted fault: crash", "requests", n)
		f.crash(1)
	}
}

func (f *Faults) slow(d, at time.Duration) time.Duration {
	if f.SlowFactor > 0 && at >= f.SlowFrom {
		return time.Duration(float64(d) * f.SlowFactor)
	}
	return d
}

func (f *Faults) hanging() bool { return f.hung != nil && f.hung.Load() }
