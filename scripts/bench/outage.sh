# ClickHouse away under load. Sourced by bench.sh.

accepted() { curl -fs "http://127.0.0.1:$admin_port/metrics" | awk '/^penstock_bridge_readings_total / { print $2 }'; }
stored() { sql "SELECT count() FROM outage.readings" 2>/dev/null; }

# One line a second: second, readings in Kafka, rows, backlog, the writer's resident KiB.
watch_outage() {
    local in_kafka in_table
    in_kafka=$(accepted)
    in_table=$(stored) || in_table=$stored_before
    stored_before=$in_table
    backlog=$((in_kafka - in_table))
    echo "$(date +%s.%N) $in_kafka $in_table $backlog $(rss_kib "$writer")" >>"$root/outage.samples"
    sleep 1
}

measure_outage() {
    say "outage: $outage_rate readings a second, ClickHouse away for $outage_seconds s"
    servers_up
    start_gateway --set kafka.topic_prefix=outage.
    start_writer --set kafka.topic_prefix=outage. --set writer.group=outage --set clickhouse.database=outage
    wait_ready writer "$writer_admin_port"
    "$penstock" loadgen run --gateway "localhost:$gateway_port" --ca "$root/certs/ca.pem" --ca-key "$root/certs/ca.key" \
        --devices 500 --rate "$outage_rate" --duration $((outage_seconds * 4 + 120))s --ledger "$root/outage.ledger" --json \
        >"$root/outage.json" 2>"$root/outage.log" &
    local fleet=$!
    started+=("$fleet")
    stored_before=0
    : >"$root/outage.samples"
    for _ in $(seq 20); do watch_outage; done
    local rss_before=$(($(rss_kib_max "$writer") / 1024))

    say "outage: killing ClickHouse at a backlog of $backlog readings"
    kill -9 "$clickhouse_pid"
    local away_at=$SECONDS
    local rows_before=$stored_before backlog_before=$backlog cpu_before away_cpu
    cpu_before=$(cpu_s "$writer")
    while [ $((SECONDS - away_at)) -lt "$outage_seconds" ]; do watch_outage; done
    away_cpu=$(calculate "($(cpu_s "$writer") - $cpu_before) / ($SECONDS - $away_at) * 100" %.1f)
    servers_up
    local back_at
    back_at=$(date +%s.%N)
    watch_outage
    if [ "$stored_before" -gt $((rows_before + 3 * outage_rate)) ] && [ "$backlog" -lt "$outage_rate" ]; then
        echo "rows were stored while ClickHouse was away: there was no outage" >&2
        exit 1
    fi
    local grown
    grown=$(awk -v t="$back_at" '$1 < t { b = $4 } END { print b }' "$root/outage.samples")
    say "outage: ClickHouse is back; $grown readings wait in Kafka"
    local deadline=$((SECONDS + outage_seconds * 3 + 60)) drained=
    while [ "$SECONDS" -lt "$deadline" ]; do
        watch_outage
        if [ "$backlog" -le "$outage_rate" ]; then drained=1 && break; fi
    done
    local drain_s growth_rate drain_rate rows_rate
    drain_s=$(calculate "$(tail -n 1 "$root/outage.samples" | cut -d' ' -f1) - $back_at")
    growth_rate=$(calculate "($grown - $backlog_before) / $outage_seconds" %.0f)
    drain_rate=$(calculate "($grown - $backlog) / $drain_s" %.0f)
    rows_rate=$(calculate "($stored_before - $rows_before) / $drain_s" %.0f)
    sleep 5
    stop "$fleet"
    local missing
    "$penstock" loadgen verify --ledger "$root/outage.ledger" --kafka "$kafka" --topic-prefix outage. --clickhouse "$clickhouse" \
        --database outage --deadline 120s --json >"$root/outage.verdict" || true
    found() { sed "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/" "$root/outage.verdict"; }
    local rss_max=$(($(rss_kib_max "$writer") / 1024))
    missing=$(found missing)
    heading "Outage: $outage_rate readings a second, ClickHouse killed and away for $outage_seconds s" "" figure mark
    row "backlog when it was back" "$grown readings, grown at $growth_rate a second" ""
    row "backlog gone, the load going on" "$([ -n "$drained" ] || printf "**not** ")after $drain_s s" ""
    row "rows stored meanwhile" "$rows_rate a second" ""
    row "**backlog shrank to backlog grew**" "$(calculate "$drain_rate / $growth_rate")" "$(mark "$(calculate "$drain_rate / $growth_rate" %.4f)" '>=' 2)"
    row "writer's resident memory, greatest" "$rss_max MB ($rss_before MB before the outage)" "$(mark "$rss_max" '<=' 256 MB)"
    row "writer's CPU while ClickHouse was away" "$away_cpu % of a core" ""
    row "missing, of $(found acked) acknowledged; duplicates; verdict" "$missing; $(found duplicates); $(found verdict)" "$(mark "$missing" '<=' 0)"
    stop "$gateway" "$writer"
}
