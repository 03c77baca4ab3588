#!/usr/bin/env bash
# Measures, on this machine, in one run:
#   1. CPU per acknowledged reading of the gateway (Kafka, acks=all) beside mosquitto (which stores nothing), same client,
#      same load: TLS with client certificates, QoS 1, one message a TLS record;
#   2. memory of idle TLS connections;
#   3. the writer's rows per CPU second on a preloaded topic.
# CPU is user and system time of the whole process, of a long run less a short one, so that connecting does not count.
# ROUNDS, COUNT, CONNECTIONS, INFLIGHT, IDLE and ROWS change the sizes; PARTS="gateway idle writer" says what is measured.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-3}
count=${COUNT:-500000}
connections=${CONNECTIONS:-2000}
inflight=${INFLIGHT:-10}
idle=${IDLE:-1000}
rows=${ROWS:-2000000}
parts=" ${PARTS:-gateway idle writer} "
root=$PWD/.penstock/bench

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

. scripts/setup.sh
ulimit -n "$(ulimit -Hn)"
if ! command -v mosquitto >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing mosquitto"
        apt-get update -qq >&2
        # Debian starts it as a service; the benchmark runs its own.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends mosquitto >&2
    else
        say "mosquitto is not installed, so nothing is compared with it (apt-get install mosquitto)"
    fi
fi

say "building"
cargo build --release --locked --bin penstock
[[ $parts != *" writer "* ]] || cargo build --release --locked -p penstock-storage-writer --example drain
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
penstock=$target/release/penstock

rm -rf "$root"
mkdir -p "$root"
started=()
finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    "$penstock" dev down --dir "$root/dev" --remove-data >/dev/null 2>&1 || true
}
trap finish EXIT
trap 'exit 130' INT TERM

say "starting Kafka"
up=$("$penstock" dev up --free-ports --json --dir "$root/dev")
kafka=$(printf '%s' "$up" | sed 's/.*"kafka":{[^}]*"address":"\([^"]*\).*/\1/')
"$penstock" certs ca --dir "$root/certs" >/dev/null
"$penstock" certs server --dir "$root/certs" localhost 127.0.0.1 >/dev/null

gateway_port=$(shuf -i 20000-29999 -n 1)
mosquitto_port=$((gateway_port + 1))
admin_port=$((gateway_port + 2))
cat >"$root/penstock.toml" <<TOML
[gateway]
listen = "127.0.0.1:$gateway_port"
[kafka]
brokers = "$kafka"
[telemetry]
admin_listen = "127.0.0.1:$admin_port"
TOML
start_gateway() {
    "$penstock" run gateway --config "$root/penstock.toml" >>"$root/gateway.log" 2>&1 &
    gateway=$!
    started+=("$gateway")
    for _ in $(seq 300); do
        curl -fs "http://127.0.0.1:$admin_port/readyz" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "the gateway did not become ready; see $root/gateway.log" >&2
    exit 1
}

ticks=$(getconf CLK_TCK)
cpu_s() { awk -v ticks="$ticks" '{ sub(/.*\) /, ""); print ($12 + $13) / ticks }' "/proc/$1/stat"; }
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# CPU seconds of a process for one run of the client.
blast() { # pid, port, count
    local before after
    before=$(cpu_s "$1")
    "$penstock" loadgen blast --gateway "localhost:$2" --ca "$root/certs/ca.pem" --ca-key "$root/certs/ca.key" \
        --connections "$connections" --count "$3" --inflight "$inflight" --json >>"$root/blast.json"
    after=$(cpu_s "$1")
    awk -v a="$before" -v b="$after" 'BEGIN { print b - a }'
}

# Microseconds of CPU for each acknowledged message.
per_message() { # pid, port
    local short long
    short=$(blast "$1" "$2" "$connections")
    long=$(blast "$1" "$2" "$((connections + count))")
    awk -v s="$short" -v l="$long" -v n="$count" 'BEGIN { printf "%.2f\n", (l - s) / n * 1e6 }'
}

printf '| what | figure |\n|---|---|\n' >"$root/table"

measure_gateway() {
say "1. CPU per acknowledged reading: $rounds rounds of $count messages on $connections connections, $inflight in flight on each"
start_gateway
mosquitto=
if command -v mosquitto >/dev/null 2>&1; then
    chmod 755 "$root" "$root/certs"
    cat >"$root/mosquitto.conf" <<CONF
per_listener_settings false
listener $mosquitto_port 127.0.0.1
cafile $root/certs/ca.pem
certfile $root/certs/server.pem
keyfile $root/certs/server.key
require_certificate true
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
user $(id -un)
log_type error
CONF
    mosquitto -c "$root/mosquitto.conf" >"$root/mosquitto.log" 2>&1 &
    mosquitto=$!
    started+=("$mosquitto")
    for _ in $(seq 50); do (exec 3<>"/dev/tcp/127.0.0.1/$mosquitto_port") 2>/dev/null && break || sleep 0.1; done
fi
# The gateway is warmed up once, so that Kafka's code is compiled; then rounds alternate.
per_message "$gateway" "$gateway_port" >/dev/null
: >"$root/gateway.us"
: >"$root/mosquitto.us"
for round in $(seq "$rounds"); do
    per_message "$gateway" "$gateway_port" | tee -a "$root/gateway.us" | sed "s/^/round $round: gateway us /" >&2
    if [ -n "$mosquitto" ]; then
        per_message "$mosquitto" "$mosquitto_port" | tee -a "$root/mosquitto.us" | sed "s/^/round $round: mosquitto us /" >&2
    fi
done
kill "$gateway"
wait "$gateway" 2>/dev/null || true
gateway_us=$(median <"$root/gateway.us")
printf '| gateway, Kafka acks=all: CPU per acknowledged reading | %s us |\n' "$gateway_us" >>"$root/table"
if [ -n "$mosquitto" ]; then
    mosquitto_us=$(median <"$root/mosquitto.us")
    printf '| mosquitto, stores nothing: CPU per acknowledged message | %s us |\n' "$mosquitto_us" >>"$root/table"
    awk -v g="$gateway_us" -v m="$mosquitto_us" 'BEGIN { printf "| gateway to mosquitto | %.2f |\n", g / m }' >>"$root/table"
fi
}

measure_idle() {
say "2. memory of $idle idle TLS connections"
start_gateway
sleep 1
empty=$(rss_kib "$gateway")
"$penstock" loadgen run --gateway "localhost:$gateway_port" --ca "$root/certs/ca.pem" --ca-key "$root/certs/ca.key" \
    --devices "$idle" --rate 1 --duration 60s --json >"$root/idle.json" 2>/dev/null &
fleet=$!
started+=("$fleet")
sessions() { curl -fs "http://127.0.0.1:$admin_port/metrics" | awk '/^penstock_gateway_sessions / { print $2 }'; }
for _ in $(seq 300); do
    [ "$(sessions)" = "$idle" ] && break
    sleep 0.1
done
connected=$(sessions)
sleep 2
full=$(rss_kib "$gateway")
kill "$fleet" "$gateway" 2>/dev/null || true
wait "$fleet" "$gateway" 2>/dev/null || true
awk -v e="$empty" -v f="$full" -v n="$connected" \
    'BEGIN { printf "| %d idle TLS connections | %.1f MB above the empty process (%.1f KB each) |\n", n, (f - e) / 1024, (f - e) / n }' \
    >>"$root/table"
}

measure_writer() {
say "3. the writer on a preloaded topic of $rows readings"
for round in $(seq "$rounds"); do
    "$target/release/examples/drain" "$rows" | tee -a "$root/drain.json" >&2
done
json() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" "$root/drain.json" | median; }
printf '| writer: rows per CPU second of its own process | %.0f |\n' "$(json rows_per_cpu_s)" >>"$root/table"
printf '| writer: CPU per row | %.2f us |\n' "$(json writer_us_per_row)" >>"$root/table"
printf '| ClickHouse: CPU per row of those inserts | %.2f us |\n' "$(json clickhouse_us_per_row)" >>"$root/table"
}

[[ $parts != *" gateway "* ]] || measure_gateway
[[ $parts != *" idle "* ]] || measure_idle
"$penstock" dev down --dir "$root/dev" --remove-data >/dev/null 2>&1 || true
[[ $parts != *" writer "* ]] || measure_writer
echo
cat "$root/table"
