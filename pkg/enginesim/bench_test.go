package enginesim

import (
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// separate starts an engine as a process of its own; stop ends it and returns the CPU time it used
// beyond what it had used when it began to serve.
func separate(b *testing.B, dialect string) (p *process, stop func() time.Duration) {
	b.Helper()
	port := "18999"
	cmd := exec.Command(os.Args[0], append([]string{"--dialect", dialect, "--sim-start-scale", "0", "--"}, command(dialect, port)...)...)
	cmd.Env = append(os.Environ(), asEngine+"=1")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p = &process{url: "http://127.0.0.1:" + port}
	for {
		resp, err := http.Get(p.url + "/v1/models")
		if err == nil {
			resp.Body.Close()
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	before := cpu(cmd.Process.Pid)
	return p, func() time.Duration {
		used := cpu(cmd.Process.Pid) - before
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		return used
	}
}

// cpu reads a process's user and system time from /proc, to a hundredth of a second.
func cpu(pid int) time.Duration {
	f := stat("/proc/" + strconv.Itoa(pid) + "/stat")
	var ticks time.Duration
	for _, field := range f[11:13] {
		n := time.Duration(0)
		for _, c := range field {
			n = 10*n + time.Duration(c-'0')
		}
		ticks += n
	}
	return ticks * 10 * time.Millisecond
}

// BenchmarkToken is the server's CPU time for one streamed token: 64 streams at once.
func BenchmarkToken(b *testing.B) {
	for _, dialect := range []string{"vllm", "sglang", "tgi"} {
		b.Run(dialect, func(b *testing.B) {
			p, stop := separate(b, dialect)
			const streams, tokens = 64, 600
			done := make(chan int)
			for range streams {
				go func() {
					_, events, _ := p.stream(b.Context(), "/v1/completions", completion(20, tokens, true))
					done <- len(events)
				}()
			}
			events := 0
			for range streams {
				events += <-done
			}
			b.ReportMetric(float64(stop().Microseconds())/(streams*tokens), "cpu-µs/token")
			b.ReportMetric(float64(streams*tokens)/float64(events), "tokens/event")
		})
	}
}

// BenchmarkIdle is the share of a core that an engine without requests takes.
func BenchmarkIdle(b *testing.B) {
	p, stop := separate(b, "vllm")
	_ = p
	const watched = 5 * time.Second
	<-time.After(watched)
	b.ReportMetric(100*stop().Seconds()/watched.Seconds(), "%core")
}
