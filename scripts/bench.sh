#!/usr/bin/env bash
# Measures, on this machine, in one run, the parts named in PARTS (all of them unless it is set):
#   gateway        CPU per acknowledged reading of the gateway (Kafka, acks=all) beside mosquitto (which stores nothing),
#                  same client, same load: TLS with client certificates, QoS 1, one message a TLS record
#   idle           memory of idle TLS connections
#   writer         the writer's rows per CPU second on a preloaded topic
#   kafka-engine   the writer beside ClickHouse's Kafka engine with a materialized view, on the same topic, in turns
#   storage        bytes per measured value on disk; CODECS=1 tries other codecs and table settings too
#   outage         ClickHouse away under load: how fast the backlog drains, the writer's memory, nothing missing
#   alerts         ten rules a reading: evaluation alone, the whole stage on a preloaded topic, publish to alert
#   exactly-once   what exactly-once storage costs above at-least-once, in turns
# CPU is user and system time of the whole process. A figure that misses its mark is named and does not fail the run.
# ROUNDS, COUNT, CONNECTIONS, INFLIGHT, IDLE, ROWS, STORAGE_SECONDS, STORAGE_RATE, OUTAGE_SECONDS and OUTAGE_RATE change the sizes.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-3}
count=${COUNT:-500000}
connections=${CONNECTIONS:-2000}
inflight=${INFLIGHT:-10}
idle=${IDLE:-1000}
rows=${ROWS:-2000000}
storage_seconds=${STORAGE_SECONDS:-200}
storage_rate=${STORAGE_RATE:-10000}
outage_seconds=${OUTAGE_SECONDS:-120}
outage_rate=${OUTAGE_RATE:-5000}
parts=" ${PARTS:-gateway idle writer kafka-engine storage outage exactly-once alerts} "
root=$PWD/.penstock/bench

. scripts/setup.sh
. scripts/bench/common.sh
. scripts/bench/gateway.sh
. scripts/bench/writer.sh
. scripts/bench/kafka_engine.sh
. scripts/bench/storage.sh
. scripts/bench/outage.sh
. scripts/bench/exactly_once.sh
. scripts/bench/alerts.sh

for part in $parts; do
    case $part in
    gateway | idle | writer | kafka-engine | storage | outage | exactly-once | alerts) ;;
    *) echo "PARTS names $part, which is no part; see the head of scripts/bench.sh" >&2 && exit 2 ;;
    esac
done

ulimit -n "$(ulimit -Hn)"
if measured gateway && ! command -v mosquitto >/dev/null 2>&1; then
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
if measured writer || measured kafka-engine || measured exactly-once; then
    cargo build --release --locked -p penstock-storage-writer --example drain
fi
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
penstock=$target/release/penstock
drain=$target/release/examples/drain
examples=$target/release/examples
if measured alerts; then
    cargo build --release --locked -p penstock-alerter --example evaluate --example alerts_drain --example latency
fi

rm -rf "$root"
mkdir -p "$root"
trap finish EXIT
trap 'exit 130' INT TERM

if measured gateway || measured idle || measured kafka-engine || measured storage || measured outage || measured alerts; then
    start_servers
fi
if measured gateway || measured idle; then
    printf '| what | figure |\n|---|---|\n' >>"$root/table"
fi
! measured gateway || measure_gateway
! measured idle || measure_idle
! measured kafka-engine || measure_kafka_engine
! measured storage || measure_storage
! measured outage || measure_outage
! measured alerts || measure_alerts
stop_servers
# These start servers of their own.
! measured writer || measure_writer
! measured exactly-once || measure_exactly_once
echo
cat "$root/table"
