# Everything that a person or CI runs. `make help` lists it.

CARGO ?= cargo
PORT  ?= 9100
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help run build test setup system lint unit integration foreign smoke fuzz bench streams unauthenticated soak stage micro fixture image docs clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: system ## set up, build and start the gateway (./toolgate.yaml if there is one, else the quickstart)
	$(CARGO) run --release --locked

build: system ## the release binary: target/release/toolgate
	$(CARGO) build --release --locked

test: setup lint unit smoke integration ## set up all that is needed and run every test

setup: ## system packages, real MCP servers and clients, the conformance suite (pinned, under .tools)
	@tests/tools/setup

system: ## only what the build needs: a C compiler and cmake
	@tests/tools/setup system

lint: ## formatting, clippy with warnings denied, misspelt words
	@tests/tools/setup lint
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$${TOOLGATE_TOOLS:-.tools}/typos/bin/typos

unit: ## unit and property tests
	@tests/tools/setup unit
	$(CARGO) test --workspace --locked --lib --bins --test architecture
	$(CARGO) test -p filters --locked --tests

integration: setup ## the real binary, real servers, real clients, the conformance suite
	$(CARGO) test --locked --test integration

smoke: setup ## every fuzz target for a few seconds, from its seeds, with the same choices each time
	SEED=1 fuzz/run 40

foreign: setup ## servers that answer up to three times, called CALLS=100000 times: no byte of it may reach another caller
	TOOLGATE_FOREIGN_CALLS=$(or $(CALLS),100000) $(CARGO) test --locked --test integration -- --nocapture h2::foreign

fuzz: setup ## look for inputs that break a reader, for MINUTES=60, on all cores; findings are kept and reported
	fuzz/run $$(( $(or $(MINUTES),60) * 60 ))

bench: stage ## what a call costs beside nginx and a bare relay; writes docs/performance.md
	benches/load --page

streams: stage ## how fast events are, what idle streams cost, when a server knows that a client disconnected
	benches/streams

unauthenticated: stage ## what unauthenticated callers cost, and how slow ones affect others
	benches/unauthenticated

stage: build
	@tests/tools/setup bench
	$(CARGO) build --release --locked --example relay --example server

micro: system ## what reading, authorizing, rebuilding and listing cost by themselves
	$(CARGO) bench --workspace --locked

soak: build setup ## half a load for MINUTES=20 with reloads, crashes and clients that disconnect; watches what grows
	benches/soak --minutes $(or $(MINUTES),20)

fixture: setup ## the test server with the conformance suite's names, at PORT=9100
	@.tools/venv/bin/python tests/fixture/server.py --port $(PORT)

image: ## the container image toolgate:dev, which must stay below 60 MB
	docker build -t toolgate:dev .
	@size=$$(docker image inspect --format '{{.Size}}' toolgate:dev); \
	echo "toolgate:dev has $$(( size / 1000000 )) MB"; \
	[ "$$size" -lt 60000000 ] || { echo "that is too much: 60 MB is the most" >&2; exit 1; }

docs: ## the generated pages of docs/: the references of the configuration and of the commands
	mkdir -p target
	$(CARGO) run --locked -- schema --markdown --example conf/toolgate.yaml > target/reference.md
	mv target/reference.md docs/configuration/reference.md
	$(CARGO) run --locked -- schema --commands > target/commands.md
	mv target/commands.md docs/commands.md

clean: ## everything that was built or installed here
	$(CARGO) clean
	rm -rf .tools
