//! Reads what Kafka and ClickHouse hold into the offsets' comparison. Waits for nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clickhouse::Client;
use penstock_kafka::{IncomingRecord, ScanFrom, Scanner};
use penstock_proto::topics::{self, header};
use penstock_proto::{DeviceId, ReadingView};

use super::offsets::{Offsets, Tally};
use crate::chain::Chain;
use crate::chaos::load::UNDECODABLE;

const RECORDS_MAX: usize = 10_000;
const POLL: Duration = Duration::from_millis(500);
/// A scan that stands still for this long is given up. It outlasts a transaction that was left open.
const STALLED: Duration = Duration::from_secs(90);

/// What has been read of both topics, from the beginning.
#[derive(Debug, Default)]
pub(super) struct Scans {
    /// By offset.
    pub(super) offsets: Offsets,
    /// Where the dead letters of a partition have not been read yet.
    letters_next: BTreeMap<i32, i64>,
    /// Dead letters and records that make no sense.
    pub(super) strange: Vec<String>,
}

impl Scans {
    /// Reads what has been written since the last time.
    ///
    /// # Panics
    /// Where Kafka cannot be read.
    pub(super) fn go_on(&mut self, chain: &Chain) {
        let partitions = |topic: &str| {
            let contract = topics::CONTRACTS.iter().find(|contract| contract.name == topic);
            0..i32::from(contract.unwrap().partitions)
        };
        let from = partitions(topics::READINGS).map(|number| (number, self.offsets.next(number))).collect();
        read(chain, topics::READINGS, from, |record| self.saw_record(record));
        let next = |number| self.letters_next.get(&number).copied().unwrap_or(0);
        let from = partitions(topics::STORAGE_FAILURES).map(|number| (number, next(number))).collect();
        read(chain, topics::STORAGE_FAILURES, from, |record| self.saw_letter(record));
    }

    fn saw_record(&mut self, record: &IncomingRecord<'_>) {
        let (partition, offset) = (record.partition, record.offset);
        if record.payload.starts_with(UNDECODABLE) {
            return self.offsets.saw_undecodable(partition, offset);
        }
        let device = record.key.and_then(|key| DeviceId::try_from(key).ok());
        match device.zip(ReadingView::decode(record.payload).ok()) {
            Some((device, view)) => {
                self.offsets.saw_reading(partition, offset, device, view.sequence, view.timestamp_ms);
            }
            None => {
                self.strange.push(format!("partition {partition} offset {offset} is no reading of the fleet"))
            }
        }
    }

    fn saw_letter(&mut self, record: &IncomingRecord<'_>) {
        self.letters_next.insert(record.partition, record.offset + 1);
        let number = |name| {
            let value = record.header(name).and_then(|value| std::str::from_utf8(value).ok())?;
            value.parse::<i64>().ok()
        };
        let partition = number(header::SOURCE_PARTITION).and_then(|partition| i32::try_from(partition).ok());
        match partition.zip(number(header::SOURCE_OFFSET)) {
            Some((partition, offset)) => self.offsets.letters.add(partition, offset),
            None => {
                let (partition, offset) = (record.partition, record.offset);
                self.strange
                    .push(format!("dead letter {partition}/{offset} does not say of which record it is"));
            }
        }
    }
}

fn read(chain: &Chain, topic: &str, from: Vec<(i32, i64)>, mut each: impl FnMut(&IncomingRecord<'_>)) {
    let name = format!("{}{topic}", chain.prefix);
    let mut scanner = Scanner::open(&chain.kafka(), &name, &ScanFrom::Offsets(from), true).unwrap();
    let mut progress_at = Instant::now();
    while let Some(batch) = scanner.next_batch(RECORDS_MAX, POLL).unwrap() {
        if !batch.is_empty() {
            progress_at = Instant::now();
            batch.iter().for_each(|record| each(&record));
        }
        assert!(progress_at.elapsed() < STALLED, "reading {name} stands still");
    }
}

/// How a query reaches ClickHouse.
pub(super) fn client(chain: &Chain) -> Client {
    let target = chain.clickhouse();
    Client::default().with_url(target.url).with_database(target.database).with_user(target.user)
}

/// The offsets of all rows.
///
/// # Panics
/// Where ClickHouse does not answer.
pub(super) async fn rows(client: &Client) -> Tally {
    let query = "SELECT toInt32(kafka_partition), toInt64(kafka_offset) FROM readings";
    let mut cursor = client.query(query).fetch::<(i32, i64)>().unwrap();
    let mut rows = Tally::default();
    while let Some((partition, offset)) = cursor.next().await.unwrap() {
        rows.add(partition, offset);
    }
    rows
}
