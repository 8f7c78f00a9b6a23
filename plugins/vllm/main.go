// Command perf-engine-vllm teaches perf-agent to read, check and start vLLM from 0.8 on: its
// metric names, its flags by release, its failures in words. It decides nothing.
package main

import "github.com/optiinfra/performance-agent/pkg/engine"

func main() { engine.Serve(adapter{}) }
