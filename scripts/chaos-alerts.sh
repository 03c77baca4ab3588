#!/usr/bin/env bash
# The fault suite for alerts. FAULTS says how many faults (100), SEED which (drawn if not given), RELEASE=1 that the release
# binary is tested; further options of the program are arguments: scripts/chaos-alerts.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

profile=()
if [ -n "${RELEASE:-}" ]; then profile=(--release); fi
cargo build --locked "${profile[@]}" -p penstock -p penstock-system-tests --bin penstock --bin alert-chaos
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
folder=debug
if [ -n "${RELEASE:-}" ]; then folder=release; fi
exec "$target/$folder/alert-chaos" --faults "${FAULTS:-100}" ${SEED:+--seed "$SEED"} "$@"
