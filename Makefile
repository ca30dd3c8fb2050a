# Hearth. `make demo` shows what it does, `make test` is everything that gates a commit.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build demo test lint purity deny advisories unit sim sim-hotwarm sim-exclusive explore-exclusive soak sim-soak sim-failover sim-availability sim-theory sim-lifeguard sim-rapid sim-scale sim-bootstrap lab bench-speed bench-failover bench-sensing soak-healthy soak-posts allocations docs release clean conformance protocols oracle fuzz bench-membership

PROFILE ?= lab
CARGO   := cargo
SEEDS   ?= 0..200
NODES   ?= 20
MESSAGES ?= 10000000

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## install what demo and tests use beyond Rust (Debian packages; names what it could not)
	@tests/setup

build: ## build the binaries (target/$(PROFILE)/)
	$(CARGO) build --profile $(PROFILE) --workspace --bins

demo: setup build ## a real mesh on this machine, real traffic, hosts lost, traffic moved, traces shown (KEEP=1 leaves it up)
	target/$(PROFILE)/demo

test: setup lint purity deny unit sim lab ## everything that gates a commit

lint: ## formatting and clippy, warnings denied
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --profile $(PROFILE) -- -D warnings

purity: ## proto stays free of IO; agent and control never import each other
	tests/purity

deny: ## bans, licences, sources of all dependencies (installs cargo-deny once)
	command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked --debug
	$(CARGO) deny check bans licenses sources

advisories: ## known vulnerabilities (needs the advisory database)
	command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked --debug
	$(CARGO) deny check advisories

unit: ## unit tests and property laws
	$(CARGO) test --profile $(PROFILE) -p hearth-proto -p hearth-agent -p hearth-control
	$(CARGO) test --profile $(PROFILE) -p hearth-tests --lib --bins --test sim --test deploy

sim: ## seeded simulator slice; `make sim SEED=n` replays one run, SEEDS=a..b NODES=n another slice
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) --nodes $(NODES)
	$(if $(SEED),,$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario failover --seeds 0..8 --nodes 24)
	$(if $(SEED),,$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario hotwarm --seeds 0..60 --nodes 12)
	$(if $(SEED),,$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario availability --seeds 0..4)

sim-hotwarm: ## losses, flaps, partitions, bad hooks over warm benches (SEEDS=0..5000)
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario hotwarm --seeds $(if $(filter 0..200,$(SEEDS)),0..5000,$(SEEDS)) --nodes 12

sim-exclusive: ## leases under partitions, pauses, drift, restarts, wiped disks: 10,000 seeds, then every rule broken once and found
	$(CARGO) run --profile $(PROFILE) -q -p hearth-proto --example sim-exclusive -- --seeds 0..10000
	for rule in promise drift blank disk former fence; do \
	  $(CARGO) run --profile $(PROFILE) -q -p hearth-proto --example sim-exclusive -- --seeds 0..2000 --break $$rule || exit 1; done

explore-exclusive: ## everything that three owners of a lease can do within bounds, exhaustively; every rule broken once and found
	$(CARGO) test --profile $(PROFILE) -p hearth-proto --lib explore -- --include-ignored --nocapture

soak: ## the long tests of links and traffic path that `make test` leaves out
	$(CARGO) test --profile $(PROFILE) -p hearth-agent --lib -- --ignored --nocapture

sim-failover: ## mixed faults over 100 nodes: from fault to last misdirected request (SEEDS=0..1000; JOURNAL=file keeps what is done, to go on from)
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario failover --seeds $(if $(filter 0..200,$(SEEDS)),0..1000,$(SEEDS)) --nodes $(if $(filter 20,$(NODES)),100,$(NODES)) $(if $(JOURNAL),--journal $(JOURNAL))

sim-availability: ## hosts fail at random, ten thousand times: how often too few serve, beside what `hearth plan` says (SEEDS=0..120)
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario availability --seeds $(if $(filter 0..200,$(SEEDS)),0..120,$(SEEDS))

sim-theory: ## plain SWIM beside the formulas: first suspicions and dissemination among 1,000 members, 50 seeds
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario theory --seeds 0..50 --nodes 1000

sim-lifeguard: ## slow members as in Lifeguard's evaluation: false positives beside plain SWIM, the whole grid
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario lifeguard --seeds 0..1

sim-rapid: ## Rapid's faults among 1,000 members: ten crashes at once, paths that come and go, 80 % loss: who is out, when, for good?
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario rapid --seeds 0..3 --nodes 1000

sim-bootstrap: ## all hosts start at once and know one seed: until each sees all, and what it costs the seed (NODES=2000)
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario bootstrap --seeds 0..1 --nodes $(if $(filter 20,$(NODES)),2000,$(NODES))

sim-scale: ## how a mesh grows, 100, 1,000 and NODES members (10,000: an hour and 16 GB): bytes at rest, news, deaths, memory (target/sim/scale.json, .svg)
	$(CARGO) run --profile $(PROFILE) -q -p hearth-tests --bin sim -- --scenario scale --seeds 0..1 --nodes $(if $(filter 20,$(NODES)),10000,$(NODES))

sim-soak: ## simulator over many seeds (SEEDS=0..20000 for a night)
	$(MAKE) sim SEEDS=$(if $(filter 0..200,$(SEEDS)),0..2000,$(SEEDS)) NODES=50

fuzz: ## the fast path against hyper over ten million messages (MESSAGES=n for more or fewer)
	HEARTH_FUZZ_MESSAGES=$(MESSAGES) $(CARGO) test --profile $(PROFILE) -p hearth-agent --lib differential -- --nocapture

lab: build ## real processes in network namespaces: every fault of the demo
	$(CARGO) test --profile $(PROFILE) -p hearth-tests --test lab --test failover --test trust --test errors --test rollout --test allocations --test protocols --test oracle --test rehearsal --test redundancy --test exclusive -- --test-threads=1
	$(CARGO) test --profile $(PROFILE) -p hearth-tests --test conformance

protocols: setup build ## gRPC, WebSocket, databases, DNS … by their own clients, in full size (a slice is in lab)
	HEARTH_FULL=1 $(CARGO) test --profile $(PROFILE) -p hearth-tests --test protocols -- --test-threads=1 --nocapture

oracle: build ## 200,000 POSTs under random kills: the books balance; retry storms, hedging (HEARTH_SEED=n repeats one)
	HEARTH_FULL=1 $(CARGO) test --profile $(PROFILE) -p hearth-tests --test oracle -- --test-threads=1 --nocapture

conformance: build ## the traffic path against the rules of HTTP, full sizes (`make lab` runs a slice); CASES=h1::length a part
	HEARTH_CONFORMANCE=full $(CARGO) test --profile $(PROFILE) -p hearth-tests --test conformance -- $(CASES)

bench-speed: ## what a sidecar pair costs, beside Envoy, HAProxy and nginx in one run (about 35 minutes; BENCH="--help")
	tests/bench-setup
	$(CARGO) build --release -p hearth-agent -p hearth-control -p hearth-tests --bins
	target/release/bench-speed $(BENCH)

bench-failover: ## what callers feel when hosts are lost, beside Envoy and HAProxy; fails where a promise is missed (about an hour and a half; BENCH="--help", BENCH="--quick")
	tests/bench-setup
	$(CARGO) build --release -p hearth-agent -p hearth-control -p hearth-tests --bins
	target/release/bench-failover $(BENCH)

bench-sensing: ## what it costs to sense silence, by turning it off: idle among 12 and loaded; fails above 2 frames a second and idle link (about 17 minutes; BENCH="--help")
	$(CARGO) build --release -p hearth-agent -p hearth-control -p hearth-tests --bins
	target/release/bench-sensing $(BENCH)

bench-membership: ## how soon 100 agents know a loss, and what it costs them, beside serf; fails on a false verdict of Hearth's (about 20 minutes; BENCH="--help", BENCH="--quick")
	tests/bench-setup
	$(CARGO) build --release -p hearth-agent -p hearth-control -p hearth-tests --bins
	target/release/bench-membership $(BENCH)

soak-posts: build ## healthy hosts on lossy paths and POSTs to them, for minutes: who is taken for lost
	$(CARGO) test --profile $(PROFILE) -p hearth-tests --test failover -- --ignored --test-threads=1 --nocapture how_often

soak-healthy: build ## a healthy mesh under strain, all of it calling: false alarms, ejections, failed POSTs counted (STRAIN="loss 1" MINUTES=10)
	target/$(PROFILE)/soak-healthy $(or $(STRAIN),loss 1) --minutes $(or $(MINUTES),10)

allocations: build ## how often a pair of agents allocates per request, and where
	target/$(PROFILE)/bench-speed allocations

docs: ## API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

release: ## static release binaries (target/x86_64-unknown-linux-gnu/release/)
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --bins --target x86_64-unknown-linux-gnu -p hearth-agent -p hearth-control

clean: ## remove what was built
	$(CARGO) clean
