//! The records behind rows that ClickHouse does not take: a block holds columns only, so they are read from Kafka once
//! more, to become dead letters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_kafka::{ClientSettings, KafkaError, ScanFrom, Scanner};
use penstock_proto::{Invalid, Reason};

use super::store::BadRow;
use crate::batch::Refused;

/// Records looked at in one go.
const RECORDS_MAX: usize = 1_000;
/// How long the records of one partition may take to come.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The records of these rows; `None` if they did not come in time. One that Kafka has deleted meanwhile comes without
/// its payload. Blocks.
///
/// # Errors
/// Kafka cannot be read.
pub(super) fn refetch(
    client: &ClientSettings,
    topic: &str,
    bad: &[BadRow],
) -> Result<Option<Vec<Refused>>, KafkaError> {
    let mut wanted: BTreeMap<i32, BTreeMap<i64, &BadRow>> = BTreeMap::new();
    for row in bad {
        wanted.entry(row.partition.into()).or_default().insert(row.offset.cast_signed(), row);
    }
    let mut found = Vec::with_capacity(bad.len());
    for (partition, mut rows) in wanted {
        let Some((first, _)) = rows.first_key_value() else { continue };
        let from = ScanFrom::Offsets(vec![(partition, *first)]);
        let mut scanner = Scanner::open(client, topic, &from, true)?;
        let deadline = Instant::now() + TIMEOUT;
        while !rows.is_empty() {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let Some(batch) = scanner.next_batch(RECORDS_MAX, Duration::from_millis(500))? else { break };
            for record in &batch {
                if let Some(row) = rows.remove(&record.offset) {
                    let key = record.key.map(Bytes::copy_from_slice);
                    found.push(refused(row, key, Bytes::copy_from_slice(record.payload)));
                }
                // Offsets come in order: what lies below was deleted or never a record.
                while rows.first_key_value().is_some_and(|(offset, _)| *offset < record.offset) {
                    found.extend(rows.pop_first().map(|(_, row)| refused(row, None, Bytes::new())));
                }
            }
        }
        found.extend(rows.into_values().map(|row| refused(row, None, Bytes::new())));
    }
    Ok(Some(found))
}

fn refused(row: &BadRow, key: Option<Bytes>, payload: Bytes) -> Refused {
    let detail = if payload.is_empty() && key.is_none() {
        format!("{} (Kafka does not hold the record any more)", row.detail)
    } else {
        row.detail.clone()
    };
    let invalid = Invalid::new(Reason::RefusedByStorage, detail);
    Refused { key, payload, invalid, partition: row.partition.into(), offset: row.offset.cast_signed() }
}
