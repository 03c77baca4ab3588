#!/usr/bin/env bash
# From nothing to a verdict: starts Kafka, ClickHouse, gateway, writer and alerts, makes certificates, replays a year of
# three real weather stations and runs 300 virtual devices, compares what was acknowledged with what is stored, and shows
# a query. KEEP=1 leaves everything running and says how to connect.
set -euo pipefail
cd "$(dirname "$0")/.."

devices=${DEVICES:-300}
duration=${DURATION:-30s}
keep=${KEEP:-}
root=$PWD/.penstock/demo

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

. scripts/setup.sh
say "building (the first time takes some minutes)"
cargo build --release --locked --bin penstock
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
penstock=$target/release/penstock

mkdir -p "$root"
dev() { "$penstock" dev "$@" --dir "$root/dev"; }

# A demo that was kept: one at a time.
if [ -f "$root/pid" ] && kill -0 "$(cat "$root/pid")" 2>/dev/null; then
    say "a demo is still running; stopping it"
    kill "$(cat "$root/pid")"
    while kill -0 "$(cat "$root/pid")" 2>/dev/null; do sleep 0.1; done
fi
dev down --remove-data >/dev/null 2>&1 || true
rm -rf "$root/certs" "$root/pid" "$root/penstock.log" "$root/ledger"

pid=
finish() {
    status=$?
    if [ -n "$keep" ] && [ "$status" = 0 ]; then return; fi
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -f "$root/pid"
    dev down --remove-data >/dev/null 2>&1 || true
    if [ "$status" != 0 ] && [ -f "$root/penstock.log" ]; then
        say "the end of $root/penstock.log:"
        tail -n 20 "$root/penstock.log" >&2
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM

say "starting Kafka and ClickHouse (fetched once, then from the cache)"
up=$(dev up --free-ports --json)
field() { printf '%s' "$up" | sed "s/.*\"$1\":{[^}]*\"$2\":\"\{0,1\}\([^,\"}]*\).*/\1/"; }
kafka=$(field kafka address)
clickhouse=$(field clickhouse address)
native_port=$(field clickhouse native_port)

say "making a certificate authority and certificates"
"$penstock" certs ca --dir "$root/certs" >/dev/null
"$penstock" certs server --dir "$root/certs" localhost 127.0.0.1 >/dev/null
"$penstock" certs device --dir "$root/certs" 00000000-0000-4000-8000-000000000001 >/dev/null

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null || shuf -i 20000-29999 -n 1; }
mqtt_port=$(free_port)
admin_port=$(free_port)
cat >"$root/penstock.toml" <<TOML
[gateway]
listen = "127.0.0.1:$mqtt_port"
[gateway.tls]
cert_file = "certs/server.pem"
key_file = "certs/server.key"
client_ca_file = "certs/ca.pem"
[kafka]
brokers = "$kafka"
[clickhouse]
url = "$clickhouse"
[writer]
# Not to be waited for in a demonstration; the default is a minute.
rollup_every_ms = 1000
[alerts]
rules = "rules.toml"
# A reading is on its way into Kafka for some milliseconds here; the default allows for an outage of Kafka.
no_data_grace_ms = 2000
[telemetry]
admin_listen = "127.0.0.1:$admin_port"
TOML

cp deploy/rules-demo.toml "$root/rules.toml"

say "starting gateway, writer and alerts"
"$penstock" run --config "$root/penstock.toml" >"$root/penstock.log" 2>&1 &
pid=$!
echo "$pid" >"$root/pid"
for _ in $(seq 300); do
    if curl -fs "http://127.0.0.1:$admin_port/readyz" >/dev/null 2>&1; then ready=1 && break; fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
if [ -z "${ready:-}" ]; then
    say "Penstock did not become ready: $(curl -s "http://127.0.0.1:$admin_port/readyz" || true)"
    exit 1
fi

say "replaying three weather stations and running $devices virtual devices for $duration; 5 of them overheat, 5 run out of
battery, 5 fall silent"
"$penstock" loadgen run \
    --gateway "localhost:$mqtt_port" --ca "$root/certs/ca.pem" --ca-key "$root/certs/ca.key" \
    --devices "$devices" --rate "$devices" --duration "$duration" \
    --stations loadgen/data/station-weather-2013.csv --ailing 5 \
    --verify --kafka "$kafka" --clickhouse "$clickhouse" --ledger "$root/ledger" | tee "$root/verdict"

say "the stations' days in ClickHouse: minimum, mean and maximum temperature"
curl -fsS "$clickhouse/" --data-binary @deploy/sql/examples/daily_by_station.sql

say "the same days from the rollup by hour, which count each reading once; the two must agree"
sleep 3
curl -fsS "$clickhouse/" --data-binary @deploy/sql/examples/rollup_by_station.sql

say "dead letters: what devices sent that is no valid reading, and what could not be stored"
"$penstock" dlq list --config "$root/penstock.toml" --limit 5

say "alerts: hot devices and low batteries, newest first"
"$penstock" alerts list --config "$root/penstock.toml" --rule SUSTAINED_HIGH_TEMPERATURE --state all
"$penstock" alerts list --config "$root/penstock.toml" --rule LOW_BATTERY --state all

say "audit of alerts: the rules, applied to every reading in Kafka, must raise what the alert topics hold"
"$penstock" alerts audit --config "$root/penstock.toml"

say "audit: every Kafka offset is one row or one dead letter"

"$penstock" audit --config "$root/penstock.toml"
grep '^verdict:' "$root/verdict"

if [ -n "$keep" ]; then
    cat <<TEXT

Everything keeps running. Stop it with: kill $pid; $penstock dev down --dir $root/dev

Publish a reading of your own:
  $penstock loadgen reading --temperature 21.5 --humidity 40 > reading.bin
  mosquitto_pub -h localhost -p $mqtt_port -V mqttv5 -q 1 -f reading.bin \\
    --cafile $root/certs/ca.pem \\
    --cert $root/certs/devices/00000000-0000-4000-8000-000000000001.pem \\
    --key $root/certs/devices/00000000-0000-4000-8000-000000000001.key \\
    -t devices/00000000-0000-4000-8000-000000000001/readings
Watch the records:
  kcat -b $kafka -t iot.events.sensor-readings -C -o end -f '%p %o %S bytes\n'
Query the rows:
  clickhouse client --port $native_port --query "SELECT * FROM penstock.latest LIMIT 5"
  curl '$clickhouse/' --data 'SELECT * FROM penstock.latest LIMIT 5 FORMAT PrettyCompact'
Rollups, dead letters, and the proof that nothing is missing:
  curl '$clickhouse/' --data 'SELECT * FROM penstock.by_minute ORDER BY minute DESC LIMIT 5 FORMAT PrettyCompact'
  $penstock dlq list --config $root/penstock.toml
  $penstock audit --config $root/penstock.toml
Metrics and readiness:
  curl http://127.0.0.1:$admin_port/metrics
TEXT
fi
