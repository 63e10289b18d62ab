# `make` or `make help` lists the targets.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

GO          ?= go
FUZZTIME    ?= 10s
BENCH       ?= .

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The images. NATS has the tag of the published image of the version in go.mod, so that either serves.
NATS_VERSION = $(shell $(GO) list -m -f '{{.Version}}' github.com/nats-io/nats-server/v2)
NATS_IMAGE   ?= nats:$(NATS_VERSION:v%=%)
WORKER_IMAGE ?= recourse-worker:dev
COMMANDS     := $(patsubst cmd/%/main.go,%,$(wildcard cmd/*/main.go))
STATIC       = CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '-s -w'
ROOT         := bin/image

# Docker is optional: what needs it is left out where it does not answer, unless REQUIRE_DOCKER is set.
DOCKER       = $(shell docker info >/dev/null 2>&1 && echo yes)
COMPOSE      = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
export COMPOSE_PROJECT_NAME ?= recourse

# The tests start containers without a helper image, and reach them on this machine.
export TESTCONTAINERS_RYUK_DISABLED ?= true
export TESTCONTAINERS_HOST_OVERRIDE ?= 127.0.0.1

##@ Everyday

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/worker and bin/recourse
	$(GO) build -o bin/ $(COMMANDS:%=./cmd/%)

.PHONY: demo
demo: ## an incident from failure to command, on an embedded server
	$(GO) run ./cmd/worker demo

.PHONY: test
test: lint allocs images-if-docker ## all checks and tests, with the race detector
	$(GO) test -race ./...

##@ Parts of test

.PHONY: lint
lint: fmt vet staticcheck ## formatting, vet, staticcheck

.PHONY: fmt
fmt: ## formatting (gofmt -w . mends it)
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not formatted, run gofmt -w on:" >&2; echo "$$files" >&2; exit 1; }

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...

.PHONY: staticcheck
staticcheck: ## staticcheck
	$(GO) run $(STATICCHECK) ./...

.PHONY: allocs
allocs: ## the gate on allocations, which the race detector would disturb
	$(GO) test -count=1 -run '^TestAllocations$$' ./internal/decide

.PHONY: unit
unit: ## tests without containers, without the race detector
	$(GO) test -short $$($(GO) list ./... | grep -v /integration)

.PHONY: integration
integration: images-if-docker ## tests against real servers; REQUIRE_DOCKER=1 fails where containers cannot be started
	$(GO) test -race -count=1 ./integration/...

##@ Now and then

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s)
	GO="$(GO)" FUZZTIME="$(FUZZTIME)" .ci/fuzz

.PHONY: bench
bench: ## benchmarks; BENCH=name chooses
	@dirs=$$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -r -n1 dirname | sort -u); \
	for dir in $$dirs; do $(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $$dir; done

.PHONY: bench-peers
bench-peers: ## Recourse against other engines, on servers that are there; PEERS='-o json --rounds 1' passes flags
	@command -v $(firstword $(GO)) >/dev/null || { echo "bench-peers needs Go: https://go.dev/dl, or on Debian: apt-get install golang" >&2; exit 1; }
	@mkdir -p bin && cd bench/peers && $(GO) build -o ../../bin/bench-peers .
	@bin/bench-peers $(PEERS)

.PHONY: vuln
vuln: ## known vulnerabilities; a note where the database cannot be reached
	@GOBIN=$(CURDIR)/bin $(GO) install $(GOVULNCHECK)
	@code=0; bin/govulncheck ./... || code=$$?; \
	if [ $$code = 3 ]; then exit 1; elif [ $$code != 0 ]; then echo "SKIP vuln: the database of vulnerabilities could not be read" >&2; fi

.PHONY: tidy-check
tidy-check: ## whether go.mod is tidy; a note where modules cannot be reached
	@code=0; diff=$$($(GO) mod tidy -diff) || code=$$?; \
	if [ -n "$$diff" ]; then echo "$$diff"; echo "go.mod is not tidy, run: go mod tidy" >&2; exit 1; \
	elif [ $$code != 0 ]; then echo "SKIP tidy-check: a module could not be reached" >&2; fi

.PHONY: clean
clean: ## removes bin and the test cache
	rm -rf bin
	$(GO) clean -testcache

##@ Containers

.PHONY: images
images: ## the images of NATS (from source, unless it is there) and of worker and recourse
	@if docker image inspect $(NATS_IMAGE) >/dev/null 2>&1; then echo "$(NATS_IMAGE) is there"; else $(MAKE) image-nats; fi
	@$(MAKE) image-worker

.PHONY: image-nats
image-nats:
	@rm -rf $(ROOT)/nats && mkdir -p $(ROOT)/nats/{data,tmp}
	$(STATIC) -o $(ROOT)/nats/nats-server github.com/nats-io/nats-server/v2
	docker build -q -t $(NATS_IMAGE) -f deploy/docker/nats.Dockerfile $(ROOT)/nats

.PHONY: image-worker
image-worker:
	@rm -rf $(ROOT)/worker && mkdir -p $(ROOT)/worker/{data,tmp,etc/ssl/certs}
	$(STATIC) -o $(ROOT)/worker/ $(COMMANDS:%=./cmd/%)
	@echo 'recourse:x:65532:65532:recourse:/data:/none' > $(ROOT)/worker/etc/passwd
	@if [ -r /etc/ssl/certs/ca-certificates.crt ]; then cp -L /etc/ssl/certs/ca-certificates.crt $(ROOT)/worker/etc/ssl/certs/; \
	else echo "note: no certificate authorities on this machine, so none in the image" >&2; fi
	docker build -q -t $(WORKER_IMAGE) -f deploy/docker/worker.Dockerfile $(ROOT)/worker

# Where containers are not required, tests say themselves that they skip them.
.PHONY: images-if-docker
images-if-docker:
	@if [ -n "$(DOCKER)" ]; then $(MAKE) images; \
	elif [ -n "$${REQUIRE_DOCKER:-}" ]; then echo "docker does not answer, and REQUIRE_DOCKER is set" >&2; exit 1; fi

.PHONY: up
up: images ## NATS and two workers, with docker compose
	NATS_IMAGE=$(NATS_IMAGE) WORKER_IMAGE=$(WORKER_IMAGE) $(COMPOSE) up -d

.PHONY: down
down: ## stops them; VOLUMES=1 removes their data too
	$(COMPOSE) down --remove-orphans $(if $(VOLUMES),--volumes)
