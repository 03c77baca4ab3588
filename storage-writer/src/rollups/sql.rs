//! The statements of a refresh. Pure.

use std::fmt::Write as _;

use super::plan::{Devices, Progress, SLOT_S, Slice, Span};

/// The measurements of which count, sum, minimum, average and maximum are kept.
const MEASUREMENTS: [&str; 3] = ["temperature", "humidity", "pressure"];

/// Renders statements for one database, behind one fence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sql<'a> {
    /// The database.
    pub(super) database: &'a str,
    /// What the `WHERE` of every `INSERT` begins with; empty for nothing.
    pub(super) fence: &'a str,
}

impl Sql<'_> {
    /// What is known of partitions: lines of partition, next offset, version. The line of partition -1 has the server's
    /// time for a version.
    pub(super) fn read_progress(&self, partitions: &[u16]) -> String {
        let partitions: Vec<String> = partitions.iter().map(u16::to_string).collect();
        format!(
            "SELECT toInt64(-1), toUInt64(0), toUnixTimestamp64Milli(now64(3))\n\
             UNION ALL\n\
             SELECT toInt64(kafka_partition), next_offset, toUnixTimestamp64Milli(refreshed_at)\n\
             FROM {}.rollup_progress FINAL WHERE kafka_partition IN ({})",
            self.database,
            partitions.join(", ")
        )
    }

    /// Says how far partitions are.
    pub(super) fn write_progress(&self, partitions: &[(u16, Progress)]) -> String {
        let mut rows = String::new();
        for (n, (partition, progress)) in partitions.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            let Progress { next_offset, version } = progress;
            // Writing to a String cannot fail.
            let _ = write!(rows, "{comma}({partition}, {next_offset}, {version})");
        }
        format!(
            "INSERT INTO {}.rollup_progress (kafka_partition, next_offset, refreshed_at)\n\
             SELECT kafka_partition, next_offset, fromUnixTimestamp64Milli(version, 'UTC')\n\
             FROM values('kafka_partition UInt16, next_offset UInt64, version Int64', {rows})\n\
             WHERE {}1",
            self.database,
            self.fence()
        )
    }

    /// The first stored offset of each partition: lines of partition and offset.
    pub(super) fn first_offsets(&self, spans: &[Span]) -> String {
        format!(
            "SELECT kafka_partition, min(kafka_offset) FROM {}.readings WHERE {} GROUP BY kafka_partition",
            self.database,
            covered(spans)
        )
    }

    /// Where in time the rows of spans lie: lines of from, to, rows, busiest. The busiest five minutes and the ones
    /// before and behind are one slice; all else is cut at days. What has expired, or will within a day, is left out:
    /// windows that lost a part of their readings must not be computed again.
    pub(super) fn slices(&self, spans: &[Span]) -> String {
        format!(
            "SELECT min(slot), max(slot) + {SLOT_S}, sum(slot_rows), side = 0 FROM (\n\
             SELECT slot, slot_rows, argMax(slot, slot_rows) OVER () AS busiest,\n\
             multiIf(abs(slot - busiest) <= {SLOT_S}, 0, slot < busiest, 1, 2) AS side FROM (\n\
             SELECT intDiv(toUnixTimestamp64Milli(timestamp), {SLOT_S}000) * {SLOT_S} AS slot, \
             count() AS slot_rows\n\
             FROM {}.readings\n\
             WHERE {} AND timestamp >= toStartOfDay(now('UTC') - INTERVAL 5 YEAR) + INTERVAL 1 DAY\n\
             GROUP BY slot))\n\
             GROUP BY side, if(side = 0, 0, intDiv(slot, 86400)) ORDER BY min(slot)",
            self.database,
            covered(spans)
        )
    }

    /// Devices behind which the rows of spans can be parted, so that no part has many more than `rows_max`.
    pub(super) fn cuts(&self, spans: &[Span], slices: &[Slice], rows_max: u64) -> String {
        let from_s = slices.iter().map(|slice| slice.from_s).min().unwrap_or_default();
        let to_s = slices.iter().map(|slice| slice.to_s).max().unwrap_or_default();
        format!(
            "SELECT max(device_id) FROM (\n\
             SELECT device_id, intDiv(sum(device_rows) OVER (ORDER BY device_id \
             ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - 1, {rows_max}) AS part FROM (\n\
             SELECT device_id, count() AS device_rows FROM {}.readings\n\
             WHERE {} AND {} GROUP BY device_id))\n\
             GROUP BY part ORDER BY part",
            self.database,
            covered(spans),
            during("timestamp", from_s, to_s, &Devices::default())
        )
    }

    /// Computes the minutes anew that rows of spans touch.
    pub(super) fn minutes(&self, spans: &[Span], slice: &Slice, devices: &Devices, version: i64) -> String {
        let Self { database, .. } = self;
        let during = during("timestamp", slice.from_s, slice.to_s, devices);
        let of = |name: &str| {
            format!("count({name}), ifNull(sum({name}), 0), min({name}), avg({name}), max({name}),\n")
        };
        format!(
            "INSERT INTO {database}.readings_1m (device_id, minute, readings, {columns}battery_level_min, refreshed_at)\n\
             SELECT device_id, toStartOfMinute(timestamp) AS minute, count(),\n{values}\
             min(battery_level), {version}\n\
             FROM {database}.readings FINAL\n\
             WHERE {fence}{during}\n\
             AND (device_id, toStartOfMinute(timestamp)) IN (\n\
             SELECT DISTINCT device_id, toStartOfMinute(timestamp) FROM {database}.readings\n\
             WHERE {during} AND {covered})\n\
             GROUP BY device_id, minute",
            columns = columns(),
            values = MEASUREMENTS.map(of).concat(),
            version = moment(version),
            fence = self.fence(),
            covered = covered(spans),
        )
    }

    /// Computes the hours anew that rows of spans touch, from their minutes. `slice` is of whole hours.
    pub(super) fn hours(&self, spans: &[Span], slice: &Slice, devices: &Devices, version: i64) -> String {
        let Self { database, .. } = self;
        let of = |name: &str| {
            format!(
                "sum({name}_count) AS {name}_n, sum({name}_sum) AS {name}_s, min({name}_min), \
                 if({name}_n = 0, NULL, {name}_s / {name}_n), max({name}_max),\n"
            )
        };
        format!(
            "INSERT INTO {database}.readings_1h (device_id, hour, readings, {columns}battery_level_min, refreshed_at)\n\
             SELECT device_id, toStartOfHour(minute) AS hour, sum(readings),\n{values}\
             min(battery_level_min), {version}\n\
             FROM {database}.readings_1m FINAL\n\
             WHERE {fence}{minutes}\n\
             AND (device_id, toStartOfHour(minute)) IN (\n\
             SELECT DISTINCT device_id, toStartOfHour(timestamp) FROM {database}.readings\n\
             WHERE {during} AND {covered})\n\
             GROUP BY device_id, hour",
            columns = columns(),
            values = MEASUREMENTS.map(of).concat(),
            version = moment(version),
            fence = self.fence(),
            minutes = during("minute", slice.from_s, slice.to_s, devices),
            during = during("timestamp", slice.from_s, slice.to_s, devices),
            covered = covered(spans),
        )
    }

    /// Computes the windows of the readings in the table `gone` anew, and removes what is older of them. An hour is
    /// computed from minutes, so they come first.
    pub(super) fn remove(&self, gone: &str, version: i64) -> Vec<String> {
        let Self { database, .. } = self;
        let readings = |name: &str| {
            format!("count({name}), ifNull(sum({name}), 0), min({name}), avg({name}), max({name}),\n")
        };
        let minutes = |name: &str| {
            format!(
                "sum({name}_count) AS {name}_n, sum({name}_sum) AS {name}_s, min({name}_min), \
                 if({name}_n = 0, NULL, {name}_s / {name}_n), max({name}_max),\n"
            )
        };
        let recompute = |window: &Window, values: String, count: &str, level: &str| {
            let Window { table, column, of, start, time } = window;
            format!(
                "INSERT INTO {database}.{table} (device_id, {column}, readings, {columns}battery_level_min, \
                 refreshed_at)\n\
                 SELECT device_id, {start}({time}) AS {column}, {count}, {values}min({level}), {version}\n\
                 FROM {database}.{of} FINAL\n\
                 WHERE (device_id, {start}({time})) IN (\n\
                 SELECT device_id, {start}(timestamp) FROM {database}.{gone})\n\
                 AND {time} >= (SELECT {start}(min(timestamp)) FROM {database}.{gone})\n\
                 AND {time} < (SELECT {start}(max(timestamp)) + INTERVAL 1 HOUR FROM {database}.{gone})\n\
                 GROUP BY device_id, {column}",
                columns = columns(),
                version = moment(version),
            )
        };
        let delete = |window: &Window| {
            let Window { table, column, start, .. } = window;
            format!(
                "DELETE FROM {database}.{table} WHERE refreshed_at < {} AND (device_id, {column}) IN (\n\
                 SELECT device_id, {start}(timestamp) FROM {database}.{gone})",
                moment(version)
            )
        };
        let (minute, hour) = (&Window::MINUTE, &Window::HOUR);
        vec![
            recompute(minute, MEASUREMENTS.map(readings).concat(), "count()", "battery_level"),
            delete(minute),
            recompute(hour, MEASUREMENTS.map(minutes).concat(), "sum(readings)", "battery_level_min"),
            delete(hour),
        ]
    }

    /// How many minutes and hours have a version: one line.
    pub(super) fn counts(&self, slices: &[Slice], hours: &[Slice], version: i64) -> String {
        let Self { database, .. } = self;
        let count = |table: &str, column: &str, slices: &[Slice]| {
            let ranges: Vec<String> = slices
                .iter()
                .map(|slice| during(column, slice.from_s, slice.to_s, &Devices::default()))
                .collect();
            format!(
                "(SELECT count() FROM {database}.{table} WHERE refreshed_at = {} AND ({}))",
                moment(version),
                ranges.join(" OR ")
            )
        };
        format!("SELECT {}, {}", count("readings_1m", "minute", slices), count("readings_1h", "hour", hours))
    }

    fn fence(&self) -> String {
        if self.fence.is_empty() { String::new() } else { format!("({}) AND ", self.fence) }
    }
}

/// One kind of window: where it is stored, and what it is computed from.
struct Window {
    table: &'static str,
    column: &'static str,
    of: &'static str,
    start: &'static str,
    time: &'static str,
}

impl Window {
    const MINUTE: Self = Self {
        table: "readings_1m",
        column: "minute",
        of: "readings",
        start: "toStartOfMinute",
        time: "timestamp",
    };
    const HOUR: Self = Self {
        table: "readings_1h",
        column: "hour",
        of: "readings_1m",
        start: "toStartOfHour",
        time: "minute",
    };
}

/// Which rows lie in spans. The bounds over all of them come first: the index of offsets knows no partitions.
fn covered(spans: &[Span]) -> String {
    let from = spans.iter().map(|span| span.from).min().unwrap_or_default();
    let to = spans.iter().map(|span| span.to).max().unwrap_or_default();
    let each: Vec<String> = spans
        .iter()
        .map(|Span { partition, from, to }| {
            format!("kafka_partition = {partition} AND kafka_offset >= {from} AND kafka_offset < {to}")
        })
        .collect();
    format!("kafka_offset >= {from} AND kafka_offset < {to} AND ({})", each.join(" OR "))
}

/// The bounds are of type `DateTime64`: with a bound of whole seconds the index of a column of milliseconds passes over
/// the last second before it (`< 12:25:00` is taken for `<= 12:24:59`).
fn during(column: &str, from_s: i64, to_s: i64, devices: &Devices) -> String {
    let mut sql =
        format!("{column} >= toDateTime64({from_s}, 3, 'UTC') AND {column} < toDateTime64({to_s}, 3, 'UTC')");
    for (bound, comparison) in [(&devices.after, ">"), (&devices.up_to, "<=")] {
        if let Some(device) = bound {
            // Writing to a String cannot fail.
            let _ = write!(sql, " AND device_id {comparison} toUUID('{device}')");
        }
    }
    sql
}

fn moment(ms: i64) -> String {
    format!("fromUnixTimestamp64Milli(toInt64({ms}), 'UTC')")
}

fn columns() -> String {
    MEASUREMENTS
        .map(|name| format!("{name}_count, {name}_sum, {name}_min, {name}_avg, {name}_max, "))
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: [Span; 2] =
        [Span { partition: 3, from: 10, to: 20 }, Span { partition: 4, from: 0, to: 15 }];
    const SLICE: Slice = Slice { from_s: 0, to_s: 3_600, rows: 1, busiest: true };

    #[test]
    fn every_insert_stands_behind_the_fence() {
        let everybody = Devices::default();
        let inserts = |sql: Sql<'_>| {
            let progress = Progress { next_offset: 1, version: 2 };
            [
                sql.minutes(&SPANS, &SLICE, &everybody, 1),
                sql.hours(&SPANS, &SLICE, &everybody, 1),
                sql.write_progress(&[(3, progress)]),
            ]
        };
        for insert in inserts(Sql { database: "db", fence: "a OR b" }) {
            assert!(insert.contains("WHERE (a OR b) AND "), "{insert}");
        }
        for insert in inserts(Sql { database: "db", fence: "" }) {
            assert!(!insert.contains("WHERE ("), "{insert}");
        }
    }

    #[test]
    fn rows_are_found_by_all_offsets_first_and_then_by_partition() {
        assert_eq!(
            covered(&SPANS),
            "kafka_offset >= 0 AND kafka_offset < 20 AND \
             (kafka_partition = 3 AND kafka_offset >= 10 AND kafka_offset < 20 OR \
             kafka_partition = 4 AND kafka_offset >= 0 AND kafka_offset < 15)"
        );
    }

    #[test]
    fn a_part_of_the_devices_begins_behind_the_one_before() {
        let devices = Devices { after: Some("a".to_owned()), up_to: Some("b".to_owned()) };
        let sql = during("minute", 60, 120, &devices);
        assert!(sql.ends_with(" AND device_id > toUUID('a') AND device_id <= toUUID('b')"), "{sql}");
    }
}
