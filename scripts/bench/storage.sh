# Bytes on disk of what a fleet and real stations sent through the gateway and the writer. Sourced by bench.sh.

measure_storage() {
    say "storage: three stations and 1,000 devices, $storage_rate readings a second for $storage_seconds s"
    servers_up
    start_gateway --set kafka.topic_prefix=storage.
    start_writer --set kafka.topic_prefix=storage. --set writer.group=storage --set clickhouse.database=storage
    wait_ready writer "$writer_admin_port"
    "$penstock" loadgen run --gateway "localhost:$gateway_port" --ca "$root/certs/ca.pem" --ca-key "$root/certs/ca.key" \
        --devices 1000 --rate "$storage_rate" --duration "${storage_seconds}s" --stations loadgen/data/station-weather-2013.csv \
        --json >"$root/storage.json" 2>"$root/storage.log"
    wait_rows storage "$(sed 's/.*"acked":\([0-9]*\).*/\1/' "$root/storage.json")" 120
    stop "$gateway" "$writer"
    sql "OPTIMIZE TABLE storage.readings FINAL"

    local readings values bytes
    readings=$(sql "SELECT count() FROM storage.readings")
    values=$(sql "SELECT count(temperature) + count(humidity) + count(pressure) + count(battery_level) + sum(length(metrics)) FROM storage.readings")
    bytes=$(sql "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'storage' AND table = 'readings'")
    heading "Storage: $readings readings with $values measured values, after OPTIMIZE FINAL" "" figure mark
    row "**bytes a measured value, the whole row counted**" "$(calculate "$bytes / $values")" "$(mark "$(calculate "$bytes / $values" %.4f)" '<=' 4); aim 2"
    row "bytes a row" "$(calculate "$bytes / $readings")" ""
    heading "Storage by column" column "bytes a row" share codec
    sql "SELECT concat('| ', c.name, ' | ', toString(round(p.bytes / $readings, 3)), ' | ', toString(round(100 * p.bytes / $bytes, 1)), ' % | ', c.compression_codec, ' |')
        FROM (SELECT column, sum(column_bytes_on_disk) AS bytes FROM system.parts_columns
              WHERE active AND database = 'storage' AND table = 'readings' GROUP BY column) AS p
        INNER JOIN (SELECT name, compression_codec FROM system.columns WHERE database = 'storage' AND table = 'readings') AS c ON c.name = p.column
        ORDER BY p.bytes DESC FORMAT TSVRaw" >>"$root/table"
    if [ -n "${CODECS:-}" ]; then
        say "storage: other codecs and settings"
        printf '\n**Columns by codec**\n\n' >>"$root/table"
        python3 scripts/bench/codecs.py columns "$clickhouse" storage "$clickhouse_pid" >>"$root/table"
        printf '\n**Whole tables**\n\n' >>"$root/table"
        python3 scripts/bench/codecs.py tables "$clickhouse" storage "$clickhouse_pid" >>"$root/table"
    fi
}
