#!/usr/bin/env python3
"""Codecs for the table of readings, on rows that are stored already.

    codecs.py columns URL DATABASE PID      each column by itself with each codec: bytes, ns to write, ns to read
    codecs.py tables URL DATABASE PID       whole tables: bytes after OPTIMIZE FINAL, CPU of inserts and of merges

DATABASE.readings is read and never changed; work is done in DATABASE_codecs, which is dropped before and afterwards. CPU is user
and system time of ClickHouse's whole process, PID. Only the standard library is used.
COLUMNS="timestamp kafka_offset" tries these columns only; ROUNDS is the number of rounds of inserts.
"""

import os
import statistics
import sys
import urllib.error
import urllib.parse
import urllib.request

SORTED = "device_id, timestamp, sequence"
NUMBERS = ["Delta, ZSTD(1)", "DoubleDelta, ZSTD(1)", "Delta, ZSTD(3)", "DoubleDelta, ZSTD(3)", "T64, ZSTD(1)",
           "T64('bit'), ZSTD(1)", "Delta, T64, ZSTD(1)", "Delta, T64('bit'), ZSTD(1)", "Delta, LZ4", "DoubleDelta, LZ4",
           "ZSTD(1)", "LZ4"]
FLOATS = ["Delta(4), ZSTD(1)", "Delta(4), ZSTD(3)", "Delta(4), ZSTD(6)", "ZSTD(1)", "ZSTD(3)", "FPC(12), ZSTD(1)",
          "FPC(20), ZSTD(1)", "FPC(12)", "DoubleDelta, ZSTD(1)", "Gorilla, ZSTD(1)", "ALP", "ALP, ZSTD(1)",
          "Delta(4), LZ4", "LZ4"]
SMALL = ["ZSTD(1)", "ZSTD(3)", "T64, ZSTD(1)", "Delta, ZSTD(1)", "LZ4"]
BUCKETS = ("map_serialization_version = 'with_buckets', map_serialization_version_for_zero_level_parts = 'with_buckets', "
           "map_buckets_strategy = 'constant', max_buckets_in_map = 8, map_buckets_min_avg_size = 0")
BUCKETS_MERGED = ["map_serialization_version = 'with_buckets'", "map_buckets_strategy = 'constant'", "max_buckets_in_map = 8",
                  "map_buckets_min_avg_size = 0"]
# A column: the codecs, or (type, codec, settings) where those change too.
CANDIDATES = {
    "device_id": ["ZSTD(1)", "ZSTD(3)", "LZ4", "Delta(8), ZSTD(1)"],
    "timestamp": NUMBERS,
    "sequence": NUMBERS,
    "temperature": FLOATS,
    "humidity": FLOATS,
    "pressure": FLOATS,
    "battery_level": SMALL,
    "metrics": [
        "ZSTD(3)", "ZSTD(1)", "ZSTD(6)", "LZ4", "Delta(8), ZSTD(1)", "Delta(8), ZSTD(3)",
        ("Map(LowCardinality(String), Float64)", "ZSTD(1)", ""),
        ("Map(LowCardinality(String), Float64)", "ZSTD(3)", ""),
        ("Map(LowCardinality(String), Float64)", "Delta(8), ZSTD(1)", ""),
        (None, "ZSTD(1)", BUCKETS),
        (None, "ZSTD(3)", BUCKETS),
        (None, "Delta(8), ZSTD(1)", BUCKETS),
        (None, "Delta(8), ZSTD(3)", BUCKETS),
    ],
    "received_at": NUMBERS,
    "kafka_partition": SMALL,
    "kafka_offset": NUMBERS,
}
PLAIN = "NONE"

# Whole tables: what differs from the table as it is.
def columns_as(*pairs):
    return {column: (None, f"CODEC({codec})") for column, codec in pairs}


T64 = columns_as(("timestamp", "Delta, T64, ZSTD(1)"), ("received_at", "Delta, T64, ZSTD(1)"),
                 ("kafka_offset", "Delta, T64, ZSTD(1)"))
FPC = columns_as(*((column, "FPC(12), ZSTD(1)") for column in ("temperature", "humidity", "pressure")))
ALP = columns_as(*((column, "ALP, ZSTD(1)") for column in ("temperature", "humidity", "pressure")))
LOW = {"metrics": ("Map(LowCardinality(String), Float64)", "CODEC(ZSTD(3))")}
TABLES = {
    "now": {"text": "as it is"},
    "t64": {"text": "timestamp, received_at, kafka_offset: Delta, T64, ZSTD(1)", "columns": T64},
    "t64_fpc": {"text": "and temperature, humidity, pressure: FPC(12), ZSTD(1)", "columns": T64 | FPC},
    "t64_alp": {"text": "or these three: ALP, ZSTD(1) (experimental)", "columns": T64 | ALP},
    "t64_low": {"text": "T64 and metrics: LowCardinality names, ZSTD(3)", "columns": T64 | LOW},
    "t64_zstd1": {"text": "T64 and metrics: ZSTD(1)", "columns": T64 | columns_as(("metrics", "ZSTD(1)"))},
    "t64_buckets": {"text": "T64 and metrics in 8 buckets once merged", "columns": T64, "settings": BUCKETS_MERGED},
    "t64_sparse": {"text": "T64 and null maps sparse", "columns": T64,
                   "settings": ["nullable_serialization_version = 'allow_sparse'"]},
    "t64_blocks": {"text": "T64 and min_compress_block_size = 1 MiB", "columns": T64,
                   "settings": ["min_compress_block_size = 1048576"]},
    "t64_32768": {"text": "T64 and index_granularity = 32,768", "columns": T64, "settings": ["index_granularity = 32768"]},
    "t64_by_sequence": {"text": "T64 and ORDER BY device_id, sequence, timestamp", "columns": T64,
                        "order_by": "device_id, sequence, timestamp"},
    "lz4": {"text": "LZ4 in place of ZSTD", "columns": columns_as(
        ("device_id", "LZ4"), ("timestamp", "DoubleDelta, LZ4"), ("sequence", "DoubleDelta, LZ4"),
        ("temperature", "Delta(4), LZ4"), ("humidity", "Delta(4), LZ4"), ("pressure", "Delta(4), LZ4"),
        ("battery_level", "LZ4"), ("metrics", "LZ4"), ("received_at", "DoubleDelta, LZ4"), ("kafka_partition", "LZ4"),
        ("kafka_offset", "DoubleDelta, LZ4"))},
}


class ClickHouse:
    def __init__(self, url):
        self.url = url

    def query(self, sql, body=None, **params):
        params = {k: str(v) for k, v in params.items()}
        if body is not None:
            params["query"] = sql
        data = sql.encode() if body is None else body
        address = f"{self.url}/?{urllib.parse.urlencode(params)}"
        try:
            with urllib.request.urlopen(urllib.request.Request(address, data=data), timeout=600) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{sql[:400]}\n{error.read().decode()[:800]}") from error

    def rows(self, sql):
        text = self.query(sql + " FORMAT TSV").decode()
        return [line.split("\t") for line in text.splitlines()]

    def value(self, sql):
        return self.rows(sql)[0][0]


def cpu_s(pid):
    """User and system time of a process."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """CPU of ClickHouse's process, for a number of rows."""

    def __init__(self, pid, rows):
        self.pid, self.rows = pid, rows

    def ns(self, work):
        before = cpu_s(self.pid)
        work()
        return (cpu_s(self.pid) - before) * 1e9 / self.rows


def columns(server, database, pid):
    """One table a column and codec, filled from the sorted readings."""
    work = f"{database}_codecs"
    server.query(f"DROP DATABASE IF EXISTS {work}")
    server.query(f"CREATE DATABASE {work}")
    stored = {name: (kind.replace("\\'", "'"), codec.replace("\\'", "'")) for name, kind, codec in server.rows(
        f"SELECT name, type, compression_codec FROM system.columns WHERE database = '{database}' AND table = 'readings'")}
    rows = int(server.value(f"SELECT count() FROM {database}.readings"))
    watch = Stopwatch(pid, rows)
    print("| column | codec | bytes a row | write, ns a row | read, ns a row |\n|---|---|---|---|---|")
    for column, candidates in CANDIDATES.items():
        if column not in os.environ.get("COLUMNS", column).split():
            continue
        kind, codec = stored[column]
        server.query(f"CREATE TABLE {work}.source (x {kind}) ENGINE = Memory")
        server.query(f"INSERT INTO {work}.source SELECT {column} FROM {database}.readings ORDER BY {SORTED}",
                     max_threads=1, max_insert_threads=1)
        for candidate in [PLAIN, *candidates]:
            other, tried, settings = candidate if isinstance(candidate, tuple) else (None, candidate, "")
            size, write_ns, read_ns = measure_column(server, watch, work, other or kind, tried, settings)
            name = f"{other + ' ' if other else ''}{tried}{', in buckets' if settings else ''}"
            mark = " (now)" if f"CODEC({name})" == codec else ""
            print(f"| {column} | {name}{mark} | {size:.3f} | {write_ns:.0f} | {read_ns:.0f} |", flush=True)
        server.query(f"DROP TABLE {work}.source SYNC")
    server.query(f"DROP DATABASE {work}")


def measure_column(server, watch, work, kind, codec, settings):
    """Bytes a row; ns a row to write and to read: the mean of three, since CPU is counted in ticks."""
    server.query(f"CREATE TABLE {work}.tried (x {kind} CODEC({codec})) ENGINE = MergeTree ORDER BY tuple() SETTINGS "
                 f"min_bytes_for_wide_part = 0{', ' + settings if settings else ''}",
                 allow_suspicious_codecs=1, allow_experimental_codecs=1)

    def insert():
        server.query(f"INSERT INTO {work}.tried SELECT * FROM {work}.source", max_threads=1, max_insert_threads=1,
                     min_insert_block_size_rows=100_000_000, min_insert_block_size_bytes=0)

    def select():
        server.query(f"SELECT count() FROM {work}.tried WHERE NOT ignore(x)", max_threads=1)

    writes, reads = [], []
    for _ in range(3):
        server.query(f"TRUNCATE TABLE {work}.tried")
        writes.append(watch.ns(insert))
        reads.append(watch.ns(select))
    if len({server.value(f"SELECT sum(cityHash64(toString(x))) FROM {work}.{table}") for table in ("tried", "source")}) != 1:
        raise SystemExit(f"{codec} did not give back what was written")
    server.query(f"OPTIMIZE TABLE {work}.tried FINAL")
    size = int(server.value("SELECT sum(column_data_compressed_bytes) FROM system.parts_columns "
                            f"WHERE active AND database = '{work}' AND table = 'tried'"))
    server.query(f"DROP TABLE {work}.tried SYNC")
    return size / watch.rows, statistics.mean(writes), statistics.mean(reads)


def create(server, database, work, name, change):
    """A table like readings but for `change`: columns (name to type and codec), order_by, settings."""
    definitions = []
    for column, kind, codec in server.rows(
            f"SELECT name, type, compression_codec FROM system.columns WHERE database = '{database}' AND table = 'readings'"):
        kind, codec = kind.replace("\\'", "'"), codec.replace("\\'", "'")
        other, codec = change.get("columns", {}).get(column, (kind, codec))
        definitions.append(f"{column} {other or kind} {codec}")
    definitions += ["INDEX kafka_offset_range kafka_offset TYPE minmax GRANULARITY 4",
                    "INDEX received_at_range received_at TYPE minmax GRANULARITY 4"]
    settings = ", ".join(["ttl_only_drop_parts = 1", *change.get("settings", [])])
    server.query(f"CREATE TABLE {work}.{name} ({', '.join(definitions)}) ENGINE = ReplacingMergeTree(received_at) "
                 f"PARTITION BY toYYYYMM(timestamp) ORDER BY ({change.get('order_by', SORTED)}) "
                 f"TTL timestamp + INTERVAL 5 YEAR SETTINGS {settings}",
                 allow_suspicious_codecs=1, allow_experimental_codecs=1)


def insert_us(server, pid, work, names, blocks, rounds):
    """CPU of inserting the blocks into each table in turns, merges stopped, us a row: the median of the rounds."""
    measured = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            before = cpu_s(pid)
            for _, body in blocks:
                server.query(f"INSERT INTO {work}.{name} FORMAT Native", body=body, async_insert=0, wait_end_of_query=1)
            measured[name].append((cpu_s(pid) - before) * 1e6 / sum(rows for rows, _ in blocks))
            server.query(f"TRUNCATE TABLE {work}.{name}")
    return {name: statistics.median(values) for name, values in measured.items()}


def tables(server, database, pid):
    """Whole tables: inserts as the writer makes them, then everything merged into one part a month."""
    work = f"{database}_codecs"
    server.query(f"DROP DATABASE IF EXISTS {work}")
    server.query(f"CREATE DATABASE {work}")
    rows, values = map(int, server.rows(f"""SELECT count(), count(temperature) + count(humidity) + count(pressure)
        + count(battery_level) + sum(length(metrics)) FROM {database}.readings""")[0])
    arrival = f"SELECT * FROM {database}.readings ORDER BY received_at, kafka_partition, kafka_offset"

    def blocks(size, count):
        count = min(count, rows // size)
        if count == 0:
            raise SystemExit(f"{database}.readings holds {rows} rows: too few for a block of {size}")
        first = min(rows // 2, rows - count * size)
        slices = [f"{arrival} LIMIT {size} OFFSET {first + i * size} FORMAT Native" for i in range(count)]
        return [(size, server.query(sql)) for sql in slices]

    large, small = blocks(85_000, 4), blocks(10_000, 12)
    for name, change in TABLES.items():
        create(server, database, work, name, change)
        server.query(f"SYSTEM STOP MERGES {work}.{name}")
    rounds = int(os.environ.get("ROUNDS", "3"))
    large_us = insert_us(server, pid, work, list(TABLES), large, rounds)
    small_us = insert_us(server, pid, work, list(TABLES), small, rounds)
    print("| table | bytes a row | bytes a value | insert of 85,000 rows, us a row | of 10,000 rows | merge, us a row |")
    print("|---|---|---|---|---|---|")
    for name, change in TABLES.items():
        server.query(f"INSERT INTO {work}.{name} {arrival}", max_threads=1, max_insert_threads=1, max_block_size=85_000,
                     min_insert_block_size_rows=85_000, min_insert_block_size_bytes=0)
        server.query(f"SYSTEM START MERGES {work}.{name}")
        before = cpu_s(pid)
        server.query(f"OPTIMIZE TABLE {work}.{name} FINAL")
        merge_us = (cpu_s(pid) - before) * 1e6 / rows
        size = int(server.value(
            f"SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = '{work}' AND table = '{name}'"))
        print(f"| {change['text']} | {size / rows:.2f} | {size / values:.3f} | {large_us[name]:.2f} | {small_us[name]:.2f} "
              f"| {merge_us:.2f} |", flush=True)
        server.query(f"DROP TABLE {work}.{name} SYNC")
    server.query(f"DROP DATABASE {work}")


def main():
    work = {"columns": columns, "tables": tables}.get(sys.argv[1] if len(sys.argv) == 5 else "")
    if work is None:
        raise SystemExit(__doc__)
    work(ClickHouse(sys.argv[2]), sys.argv[3], int(sys.argv[4]))


if __name__ == "__main__":
    main()
