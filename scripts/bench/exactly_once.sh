# What exactly-once storage costs: the fenced insert beside the plain one, in turns. Sourced by bench.sh.

measure_exactly_once() {
    local help
    help=$("$drain" --help 2>&1) || true
    if [[ $help != *--at-least-once* ]]; then
        say "exactly-once: skipped, because drain --help names no option --at-least-once to compare with"
        heading "Exactly-once" "" figure
        row "skipped: \`drain\` has no option \`--at-least-once\`" "-"
        return
    fi
    say "exactly-once: $rounds rounds of each on $rows readings"
    local round way
    for round in $(seq "$rounds"); do
        "$drain" "$rows" | tee -a "$root/exactly.json" >&2
        "$drain" "$rows" --at-least-once | tee -a "$root/atleast.json" >&2
    done
    # "writer ClickHouse" of each round, us a row.
    for way in exactly atleast; do
        awk -F'[:,]' '/"writer_us_per_row"/ { w = $2 } /"clickhouse_us_per_row"/ { c = $2 } /^}/ { print w + 0, c + 0 }' \
            "$root/$way.json" >"$root/$way.us"
    done
    figure() { awk "{ print $2 }" "$root/$1.us" | median; }
    rounds_of() { awk "{ printf \"%s%.2f\", (NR > 1 ? \", \" : \"\"), $2 }" "$root/$1.us"; }
    heading "Exactly-once beside at-least-once: CPU per row of $rows readings, us" "" "writer, rounds" "ClickHouse, rounds" "both, median"
    row "exactly once (fenced INSERT SELECT)" "$(rounds_of exactly '$1')" "$(rounds_of exactly '$2')" "$(calculate "$(figure exactly '$1 + $2')")"
    row "at least once (plain INSERT)" "$(rounds_of atleast '$1')" "$(rounds_of atleast '$2')" "$(calculate "$(figure atleast '$1 + $2')")"
    row "**exactly once to at least once**" "" "" "$(calculate "$(figure exactly '$1 + $2') / $(figure atleast '$1 + $2')")"
}
