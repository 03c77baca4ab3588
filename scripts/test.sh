#!/usr/bin/env bash
# Everything that must hold: format, lints, and every test, with real Kafka and real ClickHouse started by the tests.
# The last line is the sum.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0

step() { # name, command...
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf '== %s: FAILED\n' "$name"
    fi
}

tests() {
    cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log"
    return "${PIPESTATUS[0]}"
}

step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
step "programs that tests start" cargo build --workspace --bins --locked
step "tests" tests

# The tests themselves, from the closing line of each test binary.
counts=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed;.*/\1 \2/p' "$log" |
    awk '{ passed += $1; failed += $2 } END { print passed + 0, failed + 0 }')
passed=$((passed + ${counts% *}))
failed=$((failed + ${counts#* }))
if [ "${counts% *}" = 0 ]; then
    echo "no test ran" >&2
    failed=$((failed + 1))
fi

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
