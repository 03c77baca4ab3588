# The writer beside ClickHouse's Kafka engine with a materialized view: the same topic, server and tables. Sourced by bench.sh.

# What measured best of one or two consumers, with and without a thread each, and blocks of 65,536 to 1,048,576 rows.
engine_settings=${ENGINE_SETTINGS:-kafka_num_consumers = 1, kafka_thread_per_consumer = 0, kafka_max_block_size = 1048576}

# CPU of ClickHouse since `clickhouse_before` at `second_before`, less what it uses when idle.
clickhouse_cpu() { calculate "$(cpu_s "$clickhouse_pid") - $clickhouse_before - $clickhouse_idle * ($(date +%s.%N) - $second_before)" %.3f; }
clickhouse_mark() { clickhouse_before=$(cpu_s "$clickhouse_pid") second_before=$(date +%s.%N); }

# Appends "writer us, ClickHouse us, ClickHouse us with the merges that follow" of a drain by the writer.
drain_by_writer() { # database
    "$penstock" migrate --config "$root/penstock.toml" --set "clickhouse.database=$1" >/dev/null
    clickhouse_mark
    start_writer --set "kafka.topic_prefix=$prefix" --set "writer.group=$1" --set "clickhouse.database=$1"
    wait_rows "$1" "$rows" 300
    local writer_s insert_s
    writer_s=$(cpu_s "$writer")
    insert_s=$(clickhouse_cpu)
    wait_merges
    echo "$writer_s $insert_s $(clickhouse_cpu)" |
        awk -v n="$rows" '{ printf "%.3f %.3f %.3f\n", $1 / n * 1e6, $2 / n * 1e6, $3 / n * 1e6 }' | tee -a "$root/by_writer" >&2
    stop "$writer"
}

# The same of a drain by the Kafka engine; the first figure is always 0.
drain_by_engine() { # database
    "$penstock" migrate --config "$root/penstock.toml" --set "clickhouse.database=$1" >/dev/null
    clickhouse_mark
    sed -e "s/{database}/$1/g; s/{broker}/$kafka/; s/{topic}/${prefix}iot.events.sensor-readings/; s/{settings}/$engine_settings/" \
        scripts/bench/kafka_engine_source.sql >"$root/source.sql"
    sql @"$root/source.sql"
    sed "s/{database}/$1/g" scripts/bench/kafka_engine_view.sql >"$root/view.sql"
    sql @"$root/view.sql"
    wait_rows "$1" "$rows" 300
    local insert_s
    insert_s=$(clickhouse_cpu)
    wait_merges
    echo "0 $insert_s $(clickhouse_cpu)" |
        awk -v n="$rows" '{ printf "%.3f %.3f %.3f\n", 0, $2 / n * 1e6, $3 / n * 1e6 }' | tee -a "$root/by_engine" >&2
    sql "DROP VIEW $1.from_kafka SYNC"
    sql "DROP TABLE $1.kafka SYNC"
}

# A sum over what a reading is and where it came from: equal for equal tables.
content() {
    sql "SELECT count(), sum(cityHash64(device_id, timestamp, sequence, temperature, humidity, pressure, battery_level,
        toString(metrics), received_at, kafka_partition, kafka_offset)) FROM $1.readings"
}

measure_kafka_engine() {
    say "kafka-engine: preloading $rows readings"
    PENSTOCK_TEST_KAFKA=$kafka PENSTOCK_TEST_CLICKHOUSE=$clickhouse "$drain" "$rows" >"$root/preload.json" &
    local preload=$!
    wait "$preload"
    prefix=bench$preload.
    wait_merges
    clickhouse_mark
    clickhouse_idle=0
    sleep 10
    clickhouse_idle=$(calculate "$(clickhouse_cpu) / 10" %.4f)

    say "kafka-engine: $rounds rounds of the writer and of the engine ($engine_settings); us a row of the writer, of ClickHouse, and with merges"
    : >"$root/by_writer"
    : >"$root/by_engine"
    local round
    for round in $(seq "$rounds"); do
        drain_by_writer "by_writer_$round"
        drain_by_engine "by_engine_$round"
        if [ "$(content "by_writer_$round")" != "$(content "by_engine_$round")" ]; then
            echo "the writer and the engine stored different rows" >&2
            exit 1
        fi
        sql "DROP DATABASE by_writer_$round SYNC"
        sql "DROP DATABASE by_engine_$round SYNC"
    done
    column() { awk "{ print $2 }" "$root/$1" | median; }
    rounds_of() { awk "{ printf \"%s%.2f\", (NR > 1 ? \", \" : \"\"), $2 }" "$root/$1"; }
    local writer_us ours engine ours_merged engine_merged
    writer_us=$(column by_writer '$1')
    ours=$(column by_writer '$1 + $2')
    engine=$(column by_engine '$2')
    ours_merged=$(column by_writer '$1 + $3')
    engine_merged=$(column by_engine '$3')
    heading "Writer and ClickHouse's Kafka engine: CPU per row of $rows preloaded readings, us; idle ClickHouse ($clickhouse_idle of a core) taken off" \
        "" rounds median mark
    row "writer" "$(rounds_of by_writer '$1')" "$(calculate "$writer_us")" "$(mark "$writer_us" '<=' 0.8)"
    row "ClickHouse for the writer's inserts" "$(rounds_of by_writer '$2')" "$(column by_writer '$2')" ""
    row "writer and ClickHouse" "$(rounds_of by_writer '$1 + $2')" "$(calculate "$ours")" ""
    row "Kafka engine and view, all in ClickHouse" "$(rounds_of by_engine '$2')" "$(calculate "$engine")" ""
    row "**ours to the engine's**" "" "$(calculate "$ours / $engine")" "$(mark "$(calculate "$ours / $engine" %.4f)" '<=' 0.333)"
    row "ours with the merges that follow" "$(rounds_of by_writer '$1 + $3')" "$(calculate "$ours_merged")" ""
    row "the engine's with the merges that follow" "$(rounds_of by_engine '$3')" "$(calculate "$engine_merged")" ""
    row "ours to the engine's, merges included" "" "$(calculate "$ours_merged / $engine_merged")" ""
}
