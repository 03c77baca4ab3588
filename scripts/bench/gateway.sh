# CPU of the gateway for each acknowledged reading, beside mosquitto; memory of idle connections. Sourced by bench.sh.

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

measure_gateway() {
    say "gateway: CPU per acknowledged reading: $rounds rounds of $count messages on $connections connections, $inflight in flight on each"
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
    say "idle: memory of $idle idle TLS connections"
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
