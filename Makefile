# Everything that a person or CI runs. `make help` lists it.

CARGO ?= cargo
PORT  ?= 9100
# How long `make fuzz` takes, without its build.
MINUTES ?= 60
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help run build test setup system lint unit integration smoke fuzz bench load strangers fixture image clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: system ## set up, build and start the gateway (./toolgate.yaml if there is one, else the quickstart)
	$(CARGO) run --release --locked

build: system ## the release binary: target/release/toolgate
	$(CARGO) build --release --locked

test: setup lint unit integration smoke ## set up all that is needed and run every test

setup: ## system packages, real MCP servers and clients, the conformance suite (pinned, under .tools)
	@tests/tools/setup

system: ## only what the build needs: a C compiler and cmake
	@tests/tools/setup system

lint: system ## formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: system ## unit and property tests
	$(CARGO) test --locked --lib --bins
	$(CARGO) test -p filters --locked --tests

integration: setup ## the real binary, real servers, real clients, the conformance suite
	$(CARGO) test --locked --test integration

smoke: setup ## every fuzz target for a few seconds, from its seeds
	fuzz/run 40

fuzz: setup ## look for inputs that break a reader, for MINUTES=60, on all cores; findings are kept and told
	fuzz/run $$(( $(MINUTES) * 60 ))

bench: system ## what reading, judging, rebuilding and listing cost
	$(CARGO) bench --workspace --locked

load: build ## calls a second and CPU a call: the server alone, nginx, Toolgate (needs nginx and wrk)
	benches/load

strangers: build ## what callers without credentials cost, and what slow ones spoil (needs nginx and wrk)
	benches/strangers

fixture: setup ## the test server with the conformance suite's names, at PORT=9100
	@.tools/venv/bin/python tests/fixture/server.py --port $(PORT)

image: ## the container image toolgate:dev
	docker build -t toolgate:dev .

clean: ## everything that was built or installed here
	$(CARGO) clean
	rm -rf .tools
