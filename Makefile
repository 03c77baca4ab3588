# Targets for people; each does its own set-up. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test chaos chaos-alerts bench build fmt lint docs fuzz clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## From clone to verdict: real Kafka, real ClickHouse, three real stations, 300 devices (KEEP=1 leaves it running)
	@scripts/demo.sh

test: ## Format, lints and every test, with real servers; the last line is the sum
	@scripts/test.sh

chaos: ## Kill, stop, restart and cut off every part under load, and check every row (FAULTS=1000, SEED=7, RELEASE=1)
	@scripts/chaos.sh

chaos-alerts: ## Kill, stop, restart and cut off alerters and Kafka, and check that each alert exists once (FAULTS=300, SEED=7, RELEASE=1)
	@scripts/chaos-alerts.sh

bench: ## Measure CPU per reading and row, memory, bytes on disk, beside mosquitto and ClickHouse's Kafka engine (PARTS=...)
	@scripts/bench.sh

build: ## Build the release binary: target/release/penstock
	@. scripts/setup.sh && cargo build --release --locked --bin penstock

fmt: ## Format the code
	cargo fmt --all

lint: ## Clippy with warnings denied
	cargo clippy --workspace --all-targets --locked -- -D warnings

docs: ## Write docs/CONFIGURATION.md and deploy/penstock.toml anew from the configuration's own table
	PENSTOCK_TEST_UPDATE=1 cargo test --locked -p penstock-service --lib

fuzz: ## Fuzz the packet and payload decoders for a minute each (needs cargo-fuzz and a nightly toolchain)
	cd fuzz && for target in $$(cargo fuzz list); do cargo fuzz run $$target -- -max_total_time=60 || exit 1; done

clean: ## Remove what was built, and what a demo left
	cargo clean
	rm -rf .penstock
