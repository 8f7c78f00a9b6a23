// Command perf-engine-sglang teaches perf-agent to read, check and start SGLang from 0.4.6 on: its
// metric names, its flags by release, its few settings that change without a restart, its failures
// in words. It decides nothing.
package main

import "github.com/optiinfra/performance-agent/pkg/engine"

func main() { engine.Serve(adapter{}) }
