//! Reads the readings topic and the dead-letter topic once, from the start of the run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_kafka::{Batch, IncomingRecord, ScanFrom, Scanner};
use penstock_proto::topics::{self, MqttTopic, header};
use penstock_proto::{DeviceId, ReadingView, Reason};

use super::difference::Differences;
use super::oracle::{DeadLetters, Missing, Oracle, Records};
use super::{Progress, VerifyError};
use crate::generator::parse_undecodable;
use crate::ledger::Ledger;
use crate::store::KafkaTarget;

/// The gateway stamps records with its own clock, which may be behind by this much.
const CLOCK_SKEW_MS: i64 = 60_000;
const RECORDS_MAX: usize = 10_000;
const POLL: Duration = Duration::from_millis(500);
/// Without a record for this long, though the end is not reached, the scan is given up.
const STALLED: Duration = Duration::from_secs(60);

/// What Kafka holds of a run.
pub(super) struct Scan {
    pub(super) records: u64,
    pub(super) missing: Missing,
    pub(super) dead_letters: BTreeMap<&'static str, u64>,
    pub(super) differences: Differences,
}

/// Reads both topics on a thread of its own.
pub(super) async fn scan(
    ledger: Arc<Ledger>,
    target: KafkaTarget,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
) -> Result<Scan, VerifyError> {
    tokio::task::spawn_blocking(move || scan_blocking(&ledger, &target, &*progress)).await?
}

fn scan_blocking(
    ledger: &Ledger,
    target: &KafkaTarget,
    progress: &dyn Fn(Progress),
) -> Result<Scan, VerifyError> {
    let oracle = Oracle::new(ledger);
    let from = ScanFrom::TimestampMs(ledger.started_at_ms - CLOCK_SKEW_MS);
    let expected = oracle.rows_expected();
    let mut differences = Differences::default();
    let mut records = Records::new(&oracle);
    read(target, topics::READINGS, &from, |batch| {
        batch.iter().for_each(|record| saw_record(&mut records, &record));
        progress(Progress { store: "kafka", found: records.found, expected });
    })?;
    let found = records.found;
    let missing = records.differences(&mut differences);
    let mut dead_letters = DeadLetters::new(&oracle);
    read(target, topics::READINGS_DLQ, &from, |batch| {
        batch.iter().for_each(|record| saw_dead_letter(&mut dead_letters, &record));
    })?;
    let dead_letters = dead_letters.differences(&mut differences);
    Ok(Scan { records: found, missing, dead_letters, differences })
}

fn read(
    target: &KafkaTarget,
    topic: &str,
    from: &ScanFrom,
    mut each: impl FnMut(&Batch<'_>),
) -> Result<(), VerifyError> {
    let topic = format!("{}{topic}", target.topic_prefix);
    let failed = |cause| VerifyError::Kafka { topic: topic.clone(), cause };
    let mut scanner = Scanner::open(&target.settings, &topic, from, true).map_err(failed)?;
    let mut progress_at = Instant::now();
    while let Some(batch) = scanner.next_batch(RECORDS_MAX, POLL).map_err(failed)? {
        if !batch.is_empty() {
            progress_at = Instant::now();
            each(&batch);
        } else if progress_at.elapsed() >= STALLED {
            return Err(VerifyError::KafkaStalled { topic: topic.clone(), waited: STALLED });
        }
    }
    Ok(())
}

fn saw_record(records: &mut Records<'_>, record: &IncomingRecord<'_>) {
    let Some(device) = record.key.and_then(|key| DeviceId::try_from(key).ok()) else { return };
    if let Ok(reading) = ReadingView::decode(record.payload) {
        records.saw(device, reading.sequence, reading.timestamp_ms, record.partition, record.offset);
    }
}

fn saw_dead_letter(dead_letters: &mut DeadLetters<'_>, record: &IncomingRecord<'_>) {
    let reason = record.header(header::REASON).and_then(|name| std::str::from_utf8(name).ok());
    // The MQTT topic names the device; the payload may name another, that may be what is wrong with it.
    let topic = record.header(header::MQTT_TOPIC).and_then(MqttTopic::parse);
    let (Some(reason), Some(topic)) = (reason.and_then(Reason::from_name), topic) else { return };
    let decoded = ReadingView::decode(record.payload).map(|reading| (reading.sequence, reading.timestamp_ms));
    if let Some((sequence, timestamp_ms)) = decoded.ok().or_else(|| parse_undecodable(record.payload)) {
        dead_letters.saw(topic.device(), sequence, timestamp_ms, reason);
    }
}
