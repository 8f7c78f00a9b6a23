# Performance Agent. `make help` lists what there is.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN     := $(CURDIR)/bin
CACHE   := $(CURDIR)/.cache
TOOLBIN := $(CACHE)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
MODULE  := github.com/optiinfra/performance-agent
TAGS    := nomsgpack
ENGINES := $(patsubst plugins/%/main.go,%,$(wildcard plugins/*/main.go))
# The public half of the key that signs the plugin manifest is linked into the agent.
PLUGIN_KEY := $(CACHE)/plugin-signing.key
PLUGIN_PUB := $(CACHE)/plugin-signing.pub
KEYFLAG     = -X main.pluginPublicKey=$$(grep -v -- ----- $(PLUGIN_PUB) | tr -d '\n')
LDFLAGS  = -s -w -X $(MODULE)/pkg/version.Version=$(VERSION)
GOBUILD  = CGO_ENABLED=0 go build -trimpath -tags $(TAGS)
# The GPU reader alone links C. Its functions are bound when they are called, never at its start.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations
GPUBUILD = CGO_ENABLED=1 go build -trimpath -tags $(TAGS) -ldflags '-s -w -extldflags=-Wl,-z,lazy'

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

.PHONY: need-go
need-go:
	@command -v go >/dev/null || { echo "Go is missing: install Go 1.26 or newer (https://go.dev/doc/install), then run this again." >&2; exit 1; }

.PHONY: build
build: need-go ## build both programs and the engine plugins into bin/
	@mkdir -p $(BIN)/plugins $(CACHE)
	@for e in $(ENGINES); do $(GOBUILD) -ldflags '$(LDFLAGS)' -o $(BIN)/plugins/perf-engine-$$e ./plugins/$$e; done
	@$(GOBUILD) -ldflags '$(LDFLAGS)' -o $(CACHE)/perf-agent-unkeyed ./agent
	@test -f $(PLUGIN_KEY) || $(CACHE)/perf-agent-unkeyed plugins keygen $(PLUGIN_KEY) $(PLUGIN_PUB) >/dev/null
	@$(CACHE)/perf-agent-unkeyed plugins sign --key $(PLUGIN_KEY) --dir $(BIN)/plugins --manifest $(BIN)/plugins.manifest.json >/dev/null
	@$(GOBUILD) -ldflags "$(LDFLAGS) $(KEYFLAG)" -o $(BIN)/perf-agent ./agent
	@$(GOBUILD) -ldflags '$(LDFLAGS)' -o $(BIN)/perf-controlplane ./controlplane
	@ln -sf perf-controlplane $(BIN)/perfctl
	@if command -v gcc >/dev/null; then $(GPUBUILD) -o $(BIN)/perf-gpu ./agent/gpu/reader; else rm -f $(BIN)/perf-gpu; echo "gcc is missing: bin/perf-gpu is not built, and no GPU will be seen" >&2; fi
	@echo "built bin/perf-agent, bin/perf-controlplane (perfctl) and bin/plugins/ at $(VERSION)"

.PHONY: demo
demo: build ## the whole loop on this machine, no GPU: under four minutes, ends by itself (KEEP=1 leaves it running)
	@$(BIN)/perf-controlplane demo --agent $(BIN)/perf-agent --report $(CURDIR)/demo-report.json $(if $(KEEP),--keep,)

.PHONY: need-gcc
need-gcc:
	@command -v gcc >/dev/null || { echo "gcc is missing (the race detector and the GPU reader need it): install it, on Debian with 'apt-get install gcc libc6-dev'." >&2; exit 1; }

.PHONY: test
test: need-go need-gcc ## all tests with the race detector, the fleet simulation with planted bugs, history against Prometheus' own storage, the process tests
	go test -race -tags $(TAGS) $$(go list ./... | grep -v /test/e2e)
	go test -tags $(TAGS),mutants -count=1 ./test/sim/ ./agent/probation ./controlplane/fsm ./controlplane/rollout
	cd test/tsdbdiff && go test -count=1 ./...
	$(MAKE) --no-print-directory e2e

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: need-go ## every fuzz target in turn: make fuzz [FUZZTIME=30s]
	@git grep -oE '^func Fuzz\w+' -- '*_test.go' | while IFS=: read -r file target; do \
	  target=$${target#func }; package=./$$(dirname $$file); echo "$$target $$package"; \
	  go test -tags $(TAGS) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$package </dev/null; done

.PHONY: e2e
e2e: build ## real processes under kill -9
	@$(GOBUILD) -tags $(TAGS),failpoint -ldflags "$(LDFLAGS) $(KEYFLAG)" -o $(BIN)/perf-agent-failpoint ./agent
	PERF_BIN=$(BIN) go test -tags $(TAGS) -count=1 -timeout 15m ./test/e2e/

# Real engines: Python environments and the tiny model, made once below .cache/real.
REAL := $(CACHE)/real
.PHONY: real-vllm real-sglang
real-vllm real-sglang: real-%: ## set up a real engine (vllm or sglang, CPU) below .cache/real
	@test/real/engines/setup $* $(REAL)

# Exit code 3 of the set-up means that the packages cannot be had here: skipped, with its reason.
.PHONY: e2e-vllm e2e-sglang
e2e-vllm e2e-sglang: e2e-%: build ## the product against a real engine on this machine's CPU, up to 40 minutes
	@test/real/engines/setup $* $(REAL) || { code=$$?; test $$code = 3 && echo "e2e-$* skipped" && exit 0; exit $$code; }; \
	  ENGINE=$* PERF_BIN=$(BIN) go test -tags $(TAGS),real -count=1 -v -timeout 45m ./test/real/...

.PHONY: gpu-check
gpu-check: need-go need-gcc ## print every metric of this machine's GPUs, with its value or why there is none
	@$(GPUBUILD) -o $(BIN)/perf-gpu ./agent/gpu/reader
	@$(BIN)/perf-gpu -check

ENGINE ?= vllm
.PHONY: demo-real
demo-real: build ## the whole loop on one real engine: make demo-real ENGINE=vllm|sglang, up to 8 minutes
	@test/real/engines/setup $(ENGINE) $(REAL) || { code=$$?; test $$code = 3 && echo "demo-real skipped" && exit 0; exit $$code; }; \
	  go run -tags $(TAGS) ./test/real/demo -engine $(ENGINE) -bin $(BIN) -report $(CURDIR)/demo-real-report.json

.PHONY: bar
bar: build ## print one bar: make bar ID=M1 [DATA=dir]
	@test -n "$(ID)" || { echo "say which bar: make bar ID=M1" >&2; exit 2; }
	@DATA=$${DATA:-../shared/data} go run -tags $(TAGS) ./test/bars -id '$(ID)' -bin $(BIN)

# Tools are pinned by one nested module each and built into .cache/bin.
TOOLS := buf protoc-gen-go protoc-gen-go-grpc gofumpt staticcheck errorlint
.PHONY: tools
tools: need-go $(TOOLS:%=$(TOOLBIN)/%)
$(TOOLBIN)/%: tools/%/go.mod
	@mkdir -p $(TOOLBIN)
	@cd tools/$* && go build -o $@ $$(sed -n 's/^tool //p' go.mod)
	@touch $@

.PHONY: lint
lint: tools ## gofumpt, vet, staticcheck, errorlint, buf lint and breaking
	@out=$$($(TOOLBIN)/gofumpt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); test -z "$$out" || { echo "gofumpt would change:"; echo "$$out"; exit 1; }
	go vet -tags $(TAGS) ./...
	go vet -tags $(TAGS),mutants ./pkg/mutant ./test/sim
	go vet -tags $(TAGS),failpoint ./agent/...
	$(TOOLBIN)/staticcheck -tags $(TAGS) ./...
	cd test/tsdbdiff && go vet ./... && $(TOOLBIN)/staticcheck ./...
	$(TOOLBIN)/errorlint ./...
	cd proto && $(TOOLBIN)/buf lint && $(TOOLBIN)/buf breaking --against released.binpb

.PHONY: generate
generate: tools ## regenerate committed code; leaves the tree clean
	cd proto && PATH=$(TOOLBIN):$$PATH $(TOOLBIN)/buf generate

.PHONY: bpf
bpf: $(TOOLBIN)/bpf2go ## regenerate the eBPF objects; needs clang 14, llvm and libbpf-dev
	@command -v clang >/dev/null || { echo "clang is missing: install it, on Debian with 'apt-get install --no-install-recommends clang llvm libbpf-dev'." >&2; exit 1; }
	PATH=$(TOOLBIN):$$PATH BPF_INCLUDE=/usr/include/$$(gcc -print-multiarch) go generate ./agent/probe/...

BUILD_BASE   ?= docker.io/library/golang:1.26-bookworm
RUNTIME_BASE ?= scratch
.PHONY: image
image: ## build both container images with podman or docker (BUILD_BASE=, RUNTIME_BASE=)
	@tool=$$(command -v podman || command -v docker) || { echo "podman or docker is missing: install one, on Debian with 'apt-get install podman buildah runc'." >&2; exit 1; }; \
	  for p in agent controlplane; do $$tool build -f Dockerfile.$$p --build-arg BUILD_BASE=$(BUILD_BASE) --build-arg RUNTIME_BASE=$(RUNTIME_BASE) --build-arg VERSION=$(VERSION) -t performance-agent/$$p:$(VERSION) . ; done

.PHONY: clean
clean: ## remove what make built
	rm -rf $(BIN) $(CACHE) demo-report.json
