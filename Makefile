# Everything a developer or the continuous integration runs. The targets install what they need: see scripts/setup.

help:
	@echo 'make demo    a Debian and nginx disk becomes an appliance, travels through a registry, boots, and its firewall holds'
	@echo 'make test    format, lint and all tests; ends with "N passed, N failed, N skipped"'
	@echo 'make bench   measures against qemu-img, zstd, curl and docker-registry and writes docs/benchmarks.md'
	@echo 'make conformance  10,000 random disk images, every hostile file, and registries; writes docs/conformance.md and docs/hostile-files.md'
	@echo 'make reliability  kills, full disks, power cuts, random operations; writes docs/reliability.md'
	@echo 'make fuzz    runs each fuzz target for SECONDS=60, where a fuzzer can be had'
	@echo 'make build   target/release/hull'
	@echo 'make lint    format and lint only'
	@echo 'make clean   removes what was built, the demo disk included'

demo:
	scripts/setup demo
	cargo build --release --bin hull
	scripts/demo

test:
	scripts/setup test
	$(MAKE) --no-print-directory lint
	scripts/test

bench:
	scripts/setup bench
	cargo build --release --bin hull
	scripts/bench

conformance:
	scripts/setup test
	cargo build --release --bin hull --bin hull-conformance
	scripts/conformance

reliability:
	scripts/setup test
	scripts/reliability

fuzz:
	scripts/fuzz $(SECONDS)

build:
	cargo build --release --bin hull

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

clean:
	cargo clean
	rm -rf .cache examples/web/web.vmdk

.PHONY: help demo test bench conformance reliability fuzz build lint clean
