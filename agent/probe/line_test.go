package probe

import (
	"slices"
	"testing"
)

// FuzzRequestLine: whatever the first bytes of a request are, and wherever they are cut, they are of one
// of the known classes, and the method is one of the known names: labels of metrics are made of both.
func FuzzRequestLine(f *testing.F) {
	for _, line := range []string{
		"", " ", "POST", "POST ", "POST /v1/completions HTTP/1.1\r\n", "GET http://engine/metrics HTTP/1.1\r\n", "GET :// HTTP/1.1", "GET ://?", "BREW /\r\n", "POST /health?x ", "\x00 \xff",
	} {
		f.Add([]byte(line))
	}
	known := []string{"POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "OTHER"}
	f.Fuzz(func(t *testing.T, line []byte) {
		for end := range len(line) + 1 {
			method, class := requestLine(line[:end])
			if !slices.Contains(known, method) || class > ClassModels {
				t.Fatalf("%q is %q of class %d", line[:end], method, class)
			}
			if class == ClassInference && method != "POST" && method != "PUT" {
				t.Fatalf("%q, %s, is taken for a user's work", line[:end], method)
			}
		}
	})
}
