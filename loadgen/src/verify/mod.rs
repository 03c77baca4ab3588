//! Compares a ledger with what Kafka and ClickHouse hold, and names each difference.
//!
//! Kafka is read once: what is acknowledged must be there already (G1). ClickHouse is waited for: rows come a little
//! later, so it is asked until nothing is missing, or nothing more comes, or the deadline is over.

mod clickhouse;
mod difference;
mod kafka;
mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::KafkaError;
use serde::Serialize;

pub use self::difference::{Difference, Differences, ReadingName, SHOWN_MAX};
use self::oracle::Oracle;
use crate::ledger::Ledger;
use crate::store::{ClickHouseTarget, KafkaTarget};

/// What is compared with the ledger, and how patiently.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The topics; `None` leaves them out.
    pub kafka: Option<KafkaTarget>,
    /// The table; `None` leaves it out.
    pub clickhouse: Option<ClickHouseTarget>,
    /// How long rows are waited for at most.
    pub deadline: Duration,
    /// Rows are not waited for any more once their number has stood still for this long.
    pub stall: Duration,
    /// The table or view in which a reading that was sent more than once, too, is one row. It is looked at where
    /// `readings` has several rows of such a reading, which is allowed. `None`: it is not allowed.
    pub unique_table: Option<String>,
}

impl Default for Expectation {
    /// Nothing is compared; 60 s, 15 s without progress, `readings_unique`.
    fn default() -> Self {
        Self {
            kafka: None,
            clickhouse: None,
            deadline: Duration::from_secs(60),
            stall: Duration::from_secs(15),
            unique_table: Some("readings_unique".to_owned()),
        }
    }
}

/// The comparison could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Kafka could not be read.
    #[error("cannot read {topic} from Kafka: {cause}; is --kafka right, and does the topic exist?")]
    Kafka {
        /// The topic, with its prefix.
        topic: String,
        /// What the client said.
        cause: KafkaError,
    },
    /// Reading a topic made no progress for too long.
    #[error("reading {topic} from Kafka stands still: nothing came for {waited:?}")]
    KafkaStalled {
        /// The topic, with its prefix.
        topic: String,
        /// How long.
        waited: Duration,
    },
    /// ClickHouse could not be asked until the deadline.
    #[error("cannot query ClickHouse at {url}: {cause}; are --clickhouse and --database right?")]
    ClickHouse {
        /// The address.
        url: String,
        /// What the client said.
        cause: ::clickhouse::error::Error,
    },
    /// A scanning task panicked: a bug of the verifier.
    #[error("a scan ended early, which is a bug of the verifier: {0}")]
    Task(tokio::task::JoinError),
}

impl From<tokio::task::JoinError> for VerifyError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Task(error)
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is read: `kafka` or `clickhouse`.
    pub store: &'static str,
    /// Records or rows found so far.
    pub found: u64,
    /// Rows that must be found; extra ones are possible.
    pub expected: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Records of the run's readings in Kafka, those of repeated sends included; absent if Kafka was left out.
    pub kafka_records: Option<u64>,
    /// Rows of the run's readings in ClickHouse; absent if it was left out.
    pub stored_rows: Option<u64>,
    /// Dead letters of the run's readings, by reason.
    pub dead_letters_stored: BTreeMap<&'static str, u64>,
    /// Acknowledged readings that Kafka or ClickHouse lacks, each counted once.
    pub missing: u64,
    /// Acknowledged readings that Kafka lacks.
    pub missing_in_kafka: u64,
    /// Acknowledged readings that ClickHouse lacks.
    pub missing_in_clickhouse: u64,
    /// Rows beyond the first of a reading that must be one row: of one sent once, in `readings`; of one sent more than
    /// once, in the unique table.
    pub duplicates: u64,
    /// Rows beyond the first in `readings` of readings that were sent more than once.
    pub rows_of_resent: u64,
    /// Rows beyond the first with the same Kafka partition and offset.
    pub duplicate_offsets: u64,
    /// Readings that stand in Kafka behind a later one of their device.
    pub out_of_order: u64,
    /// Every difference.
    pub differences: Differences,
}

impl Verification {
    /// Whether no guarantee is falsified.
    pub fn is_ok(&self) -> bool {
        self.differences.total() == 0
    }

    /// The counts by name, for people.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts = Vec::new();
        counts.extend(self.kafka_records.map(|records| ("records in Kafka", records)));
        counts.extend(self.stored_rows.map(|rows| ("rows in ClickHouse", rows)));
        counts.push(("missing", self.missing));
        counts.push(("duplicates", self.duplicates));
        counts.push(("out of order", self.out_of_order));
        counts.push(("differences", self.differences.total()));
        counts
    }
}

/// Compares a ledger with what is stored. `progress` is called now and then.
///
/// # Errors
/// [`VerifyError`] if a store cannot be read; differences are no error.
pub async fn verify(
    ledger: &Arc<Ledger>,
    expectation: &Expectation,
    progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Verification, VerifyError> {
    let progress: Arc<dyn Fn(Progress) + Send + Sync> = Arc::new(progress);
    let mut found = Verification::default();
    let oracle = Oracle::new(ledger);
    oracle.differences(&mut found.differences);
    let mut missing = Vec::new();
    if let Some(target) = &expectation.kafka {
        let scan = kafka::scan(Arc::clone(ledger), target.clone(), Arc::clone(&progress)).await?;
        found.kafka_records = Some(scan.records);
        found.missing_in_kafka = scan.missing.count();
        found.dead_letters_stored = scan.dead_letters;
        found.differences.append(scan.differences);
        found.out_of_order = found.differences.of("out-of-order");
        missing.push(scan.missing);
    }
    if let Some(target) = &expectation.clickhouse {
        let rows = clickhouse::wait(&oracle, target, expectation, &*progress).await?;
        found.stored_rows = Some(rows.found);
        let unique = expectation.unique_table.as_deref();
        let (lacking, duplicates) = rows.differences(unique.is_some(), &mut found.differences);
        found.missing_in_clickhouse = lacking.count();
        found.rows_of_resent = duplicates.resent;
        found.duplicate_offsets = duplicates.offsets;
        found.duplicates = duplicates.sent_once
            + match unique {
                Some(table) if duplicates.resent > 0 => {
                    let rows = clickhouse::read(&oracle, target, table).await?;
                    rows.unique_differences(&mut found.differences)
                }
                Some(_) => 0,
                None => duplicates.resent,
            };
        missing.push(lacking);
    }
    found.missing = match missing.as_slice() {
        [kafka, clickhouse] => kafka.union(clickhouse),
        [one] => one.count(),
        _ => 0,
    };
    Ok(found)
}
