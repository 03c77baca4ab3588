//! Readings that have a row in the ranges and no record: they are dropped with the old table, and must go from what was
//! computed from them. And the latest readings, which are fed from what was rebuilt.

use super::ReplayError;
use super::ranges::Ranges;
use super::server::{READINGS, Server};

const KEY: &str = "device_id, timestamp, sequence";
const LATEST: &str =
    "device_id, timestamp, sequence, temperature, humidity, pressure, battery_level, metrics, received_at";

/// Notes the keys of rows of `readings` that the shadow will not have.
pub(super) fn note(server: &Server, ranges: &Ranges) -> Result<u64, ReplayError> {
    let (database, shadow, gone) = (&server.database, Server::shadow(&server.id), Server::gone(&server.id));
    server.run(
        "note which rows are dropped",
        &format!(
            "CREATE TABLE {database}.{gone} (device_id UUID, timestamp DateTime64(3, 'UTC'), sequence UInt64, \
             is_candidate UInt8) ENGINE = MergeTree ORDER BY ({KEY})"
        ),
    )?;
    // Grouping can go to disk, a set cannot: the set is only of what looks dropped at first.
    server.run(
        "note which rows are dropped",
        &format!(
            "INSERT INTO {database}.{gone} SELECT {KEY}, 1 FROM (\
             SELECT {KEY}, 0 AS is_new FROM {database}.{READINGS} WHERE {inside} UNION ALL \
             SELECT {KEY}, 1 AS is_new FROM {database}.{shadow} WHERE {inside}) \
             GROUP BY {KEY} HAVING max(is_new) = 0",
            inside = ranges.inside()
        ),
    )?;
    // A reading that was sent again has its row outside of the ranges, where a merge left it.
    server.run(
        "note which rows are dropped",
        &format!(
            "INSERT INTO {database}.{gone} SELECT {KEY}, 0 FROM {database}.{gone} WHERE is_candidate = 1 \
             AND ({KEY}) NOT IN (SELECT {KEY} FROM {database}.{shadow} WHERE ({KEY}) IN \
             (SELECT {KEY} FROM {database}.{gone}))"
        ),
    )?;
    server.run(
        "note which rows are dropped",
        &format!(
            "DELETE FROM {database}.{gone} WHERE is_candidate = 1 SETTINGS lightweight_deletes_sync = 2"
        ),
    )?;
    count(server, &server.id)
}

/// How many there are.
pub(super) fn count(server: &Server, id: &str) -> Result<u64, ReplayError> {
    let gone = Server::gone(id);
    if !server.exists(&gone)? {
        return Ok(0);
    }
    let sql = format!("SELECT count() FROM {}.{gone} FORMAT TSV", server.database);
    let [count] = server.numbers("count dropped rows", &sql)?;
    Ok(count)
}

/// Takes dropped readings from the latest, and feeds these from what was rebuilt. May be done again, and while writers
/// store readings: of two the later one stays.
pub(super) fn feed_latest(server: &Server, id: &str, ranges: &Ranges) -> Result<(), ReplayError> {
    let (database, gone) = (&server.database, Server::gone(id));
    if count(server, id)? > 0 {
        server.finish(
            "take dropped rows from the latest readings",
            &format!(
                "DELETE FROM {database}.readings_latest WHERE ({KEY}) IN (SELECT {KEY} FROM {database}.{gone})"
            ),
        )?;
        feed(server, &format!("device_id IN (SELECT device_id FROM {database}.{gone})"))?;
    }
    feed(server, &ranges.inside())
}

fn feed(server: &Server, which: &str) -> Result<(), ReplayError> {
    let columns: Vec<String> =
        (1..=LATEST.split(", ").count()).map(|index| format!("tupleElement(latest, {index})")).collect();
    let sql = format!(
        "INSERT INTO {database}.readings_latest ({LATEST}) SELECT {} FROM (\
         SELECT argMax(tuple({LATEST}), (timestamp, sequence, received_at)) AS latest \
         FROM {database}.{READINGS} WHERE {which} GROUP BY device_id)",
        columns.join(", "),
        database = server.database
    );
    server.finish("feed the latest readings", &sql)
}
