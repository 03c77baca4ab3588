# The writer on a preloaded topic. Sourced by bench.sh.

measure_writer() {
    say "writer: the writer on a preloaded topic of $rows readings"
    for round in $(seq "$rounds"); do
        "$drain" "$rows" | tee -a "$root/drain.json" >&2
    done
    json() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" "$root/drain.json" | median; }
    heading "Writer: $rows preloaded readings" "" figure mark
    row "rows per CPU second of the writer's process" "$(json rows_per_cpu_s | sed 's/[.].*//')" "$(mark "$(json rows_per_cpu_s)" '>=' 500000)"
    row "CPU per row" "$(calculate "$(json writer_us_per_row)") us" "$(mark "$(json writer_us_per_row)" '<=' 0.8 us)"
    row "ClickHouse's CPU per row" "$(calculate "$(json clickhouse_us_per_row)") us" ""
}
