# The alert stage: pure evaluation, a preloaded topic, and the time from a publish to its alert. Sourced by bench.sh.

alert_json() { sed -n "s/.*\"$2\": *\([0-9.]*\).*/\1/p" "$root/$1" | median; }

measure_alerts() {
    say "alerts: ten rules a reading, evaluation alone, 1,000,000 devices"
    "$examples/evaluate" 1000000 20 | tee "$root/evaluate.txt" >&2
    say "alerts: the whole stage on a preloaded topic of $rows readings"
    for round in $(seq "$rounds"); do
        "$examples/alerts_drain" "$rows" 10000 | tee -a "$root/alerts_drain.json" >&2
    done
    measure_alert_latency
    evaluated() { sed -n "s/.*$1 *\([0-9.]*\).*/\1/p" "$root/evaluate.txt" | head -n 1; }
    heading "Alerts: ten rules a reading" "" figure mark
    row "rule evaluations per CPU second, evaluation alone" "$(evaluated 'evaluations per CPU second')" "$(mark "$(evaluated 'evaluations per CPU second')" '>=' 500000)"
    row "bytes a device, resident, 1,000,000 devices" "$(evaluated 'bytes per device, resident')" ""
    row "readings per CPU second of the whole process from Kafka" "$(alert_json alerts_drain.json readings_per_cpu_s | sed 's/[.].*//')" "$(mark "$(alert_json alerts_drain.json readings_per_cpu_s)" '>=' 150000)"
    row "CPU per reading" "$(calculate "$(alert_json alerts_drain.json alerter_us_per_reading)") us" "$(mark "$(alert_json alerts_drain.json alerter_us_per_reading)" '<=' 6 us)"
    row "publish to alert at 2,000 readings/s, $(alert_json alert_latency.json alerts) alerts: p50" "$(alert_json alert_latency.json p50_ms) ms" ""
    row "p95" "$(alert_json alert_latency.json p95_ms) ms" ""
    row "p99" "$(alert_json alert_latency.json p99_ms) ms" "$(mark "$(alert_json alert_latency.json p99_ms)" '<=' 100 ms)"
}

# The whole chain: devices publish 2,000 readings a second, some of which cross a threshold.
measure_alert_latency() {
    say "alerts: from a publish to the alert that can be read, at 2,000 readings a second"
    # Temperatures wander: with a limit at each degree, some device crosses one many times a second.
    for degree in $(seq 11 27); do
        printf '[rules.over-%s]\nkind = "threshold"\nmetric = "temperature"\nabove = %s\nclear = %s\n' "$degree" "$degree" "$((degree - 1)).95"
    done >"$root/latency-rules.toml"
    start_gateway --set kafka.topic_prefix=latency.
    local alerts_admin_port=$((gateway_port + 4))
    "$penstock" run alerts --config "$root/penstock.toml" --set kafka.topic_prefix=latency. \
        --set alerts.rules="$root/latency-rules.toml" --set telemetry.admin_listen="127.0.0.1:$alerts_admin_port" \
        >"$root/alerts.log" 2>&1 &
    local alerter=$!
    started+=("$alerter")
    wait_ready alerts "$alerts_admin_port"
    "$penstock" loadgen run --gateway "localhost:$gateway_port" --ca "$root/certs/ca.pem" --ca-key "$root/certs/ca.key" \
        --devices 2000 --rate 2000 --duration 60s --json >"$root/latency-fleet.json" 2>"$root/latency-fleet.log" &
    local fleet=$!
    started+=("$fleet")
    sleep 15
    "$examples/latency" "$kafka" latency. 40 | tee "$root/alert_latency.json" >&2
    wait "$fleet" || true
    stop "$alerter" "$gateway"
}
