// Command perf-engine-tgi teaches perf-agent to read, check and start Text Generation Inference
// from 1.4 on: its metric names, its flags and environment by release, which of them do nothing, its
// failures in words. It decides nothing.
package main

import "github.com/optiinfra/performance-agent/pkg/engine"

func main() { engine.Serve(adapter{}) }
