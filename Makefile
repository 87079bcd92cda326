# demo   builds Segue and tells its whole story in two minutes
# test   installs what the tests need, and passes all of them; CI runs this and nothing else
# test-cgroup-v2  the node's tests where all cgroups are of version 2: in a virtual machine with a kernel of Debian's
# test-tailnet  what is exposed, on the tailnet that this machine is really on
# soak   the tests of the traffic, 20 times over, 100 kills at random, then 100 rolling updates under a million requests,
#        of each kind of app
# bench  figures: start, pods, rollouts, memory, idle CPU, the API; Docker Swarm beside them
# static  one static program, for whatever Linux: target/static/segue; brings its own toolchain
# bench-mesh  machines that cover for each other: a hop, news among many, what is exposed on the tailnet
# bench-traffic  the proxy beside nginx, HAProxy, Envoy and Caddy, in one run
# fuzz   a minute of any bytes for each parser of ours

.PHONY: demo test test-cgroup-v2 test-tailnet soak static bench bench-mesh bench-traffic fuzz prerequisites check machines programs

# Each test has a machine of its own; more of them at a time than cores would measure the waiting for the cores.
MACHINES := 2
SOAK := 20
# What a small machine answers in all protocols while it rolls out, so that latencies mean something.
SOAK_UPDATES := 100
SOAK_REQUESTS_PER_UPDATE := 10000
SOAK_REQUESTS_PER_SECOND := 500
SOAK_WORKERS := 64
FAULTS_KILLS := 100

demo:
	cargo build --package segue
	target/debug/segue demo

test: prerequisites check machines

test-cgroup-v2: prerequisites programs
	tests/cgroup-v2

test-tailnet: prerequisites programs
	tests/tailnet

soak: prerequisites programs
	for round in $$(seq $(SOAK)); do \
		echo "== soak: round $$round of $(SOAK)" && \
		cargo test --workspace --test machines -- --test-threads=$(MACHINES) traffic:: || exit 1; \
	done
	FAULTS_KILLS=$(FAULTS_KILLS) cargo test --workspace --test machines -- --test-threads=1 faults::
	SOAK_UPDATES=$(SOAK_UPDATES) SOAK_REQUESTS_PER_UPDATE=$(SOAK_REQUESTS_PER_UPDATE) \
		SOAK_REQUESTS_PER_SECOND=$(SOAK_REQUESTS_PER_SECOND) SOAK_WORKERS=$(SOAK_WORKERS) \
		cargo test --workspace --test machines -- --test-threads=1 traffic::rolling

static:
	packaging/static

bench: prerequisites static
	bench/prerequisites
	cargo build --release --workspace --bins
	target/release/bench

bench-mesh: prerequisites
	bench/prerequisites
	cargo build --release --workspace --bins
	target/release/bench-mesh

bench-traffic: prerequisites
	bench/prerequisites
	cargo build --release --workspace --bins
	target/release/bench-traffic

fuzz:
	fuzz/run

prerequisites:
	tests/prerequisites

check:
	cargo xtask check

machines: programs
	cargo test --workspace --test machines -- --test-threads=$(MACHINES)

programs:
	cargo build --workspace --bins
	tests/former
