//! Writes what is done with letters: each batch is one Kafka transaction of records and marks.

use std::time::{Duration, Instant};

use penstock_kafka::{
    Transaction, TransactionError, TransactionRecord, TransactionSettings, TransactionalProducer,
    partition_for_key,
};
use penstock_proto::Invalid;
use penstock_proto::topics::{CONTRACTS, DEAD_LETTERS_HANDLED, READINGS, READINGS_DLQ, header};
use tokio_util::sync::CancellationToken;

use super::LetterId;
use super::handled::{Action, Mark};
use super::judge::Publishable;
use super::letter::Letter;
use crate::{Cluster, Moment, OperatorError, rfc3339};

/// After this long the coordinator aborts a transaction of a replay that was killed; until then readers of committed
/// records wait.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that wait for Kafka.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// One call.
const CALL: Duration = Duration::from_secs(10);
/// How long a batch, or taking over, may be tried.
const PATIENCE: Duration = Duration::from_secs(120);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What is to be done with a letter.
#[derive(Debug)]
pub(super) enum Deed<'a> {
    Replay(Publishable<'a>),
    Discard,
}

/// What was written for a batch of letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Records of the readings topic.
    pub(super) records: u64,
    /// Dead letters for readings of a batch that are still invalid.
    pub(super) dead_letters: u64,
}

/// The only one who does something with letters of this cluster and topic prefix, until another is opened.
pub(super) struct Publisher {
    producer: TransactionalProducer,
    readings: String,
    dead_letters: String,
    marks: String,
    partitions: u32,
}

impl Publisher {
    /// Takes over: ends whoever did this before, and settles the transaction that was open.
    pub(super) fn open(cluster: &Cluster, cancel: &CancellationToken) -> Result<Self, OperatorError> {
        let settings = TransactionSettings {
            transactional_id: format!("{}penstock-dlq", cluster.prefix),
            timeout: TRANSACTION_TIMEOUT,
            queue_bytes_max: QUEUE_BYTES_MAX,
        };
        let began = Instant::now();
        let producer = loop {
            match TransactionalProducer::open(&cluster.settings, &settings, CALL) {
                Ok(producer) => break producer,
                Err(error)
                    if error.is_retriable() && began.elapsed() < PATIENCE && !cancel.is_cancelled() => {}
                Err(error) => return Err(failed(error)),
            }
        };
        let contract = CONTRACTS.iter().find(|contract| contract.name == READINGS);
        Ok(Self {
            producer,
            readings: cluster.topic(READINGS),
            dead_letters: cluster.topic(READINGS_DLQ),
            marks: cluster.topic(DEAD_LETTERS_HANDLED),
            partitions: contract.map_or(1, |contract| u32::from(contract.partitions)),
        })
    }

    /// Does all of it, or nothing.
    pub(super) fn write(&mut self, deeds: &[(&Letter<'_>, Deed<'_>)]) -> Result<Written, OperatorError> {
        let began = Instant::now();
        loop {
            let error = match self.attempt(deeds) {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            let can_be_repeated = match &error {
                TransactionError::Abortable { delivery, .. } => {
                    !delivery.as_ref().is_some_and(penstock_kafka::DeliveryError::is_permanent)
                }
                error => error.is_retriable() && !self.producer_is_stuck(),
            };
            if can_be_repeated && began.elapsed() < PATIENCE {
                std::thread::sleep(RETRY_PAUSE);
                continue;
            }
            let first = deeds.first().map(|(letter, _)| letter.id);
            return Err(match (error, first) {
                (
                    cause @ (TransactionError::Abortable { .. }
                    | TransactionError::Record(_)
                    | TransactionError::Invalid(_)),
                    Some(first),
                ) => OperatorError::Refused { first, cause },
                (error, _) => failed(error),
            });
        }
    }

    fn producer_is_stuck(&self) -> bool {
        self.producer.fatal_error().is_some()
    }

    fn attempt(&mut self, deeds: &[(&Letter<'_>, Deed<'_>)]) -> Result<Written, TransactionError> {
        let Self { producer, readings, dead_letters, marks, partitions } = self;
        let names = Names { readings, dead_letters, marks, partitions: *partitions };
        let mut transaction = producer.begin()?;
        let mut written = Written::default();
        let filled = deeds
            .iter()
            .try_for_each(|(letter, deed)| names.add(&mut transaction, letter, deed, &mut written));
        match filled.and_then(|()| settle(|| transaction.commit(CALL))) {
            Ok(()) => Ok(written),
            // After a commit without an outcome nothing can be aborted; then this says so, and the commit's error counts.
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                let aborted = settle(|| transaction.abort(CALL));
                match aborted {
                    Ok(()) => Err(error),
                    Err(TransactionError::OutOfOrder(_)) => Err(unsettled(error)),
                    Err(worse) => Err(worse),
                }
            }
        }
    }
}

/// A commit without an outcome must not be taken for something that can simply be done again.
fn unsettled(error: TransactionError) -> TransactionError {
    match error {
        TransactionError::Retry { code, why } => TransactionError::Fatal { code, why },
        error => error,
    }
}

/// Makes the same call again until it has an outcome.
fn settle(mut call: impl FnMut() -> Result<(), TransactionError>) -> Result<(), TransactionError> {
    let began = Instant::now();
    loop {
        match call() {
            Err(error) if error.is_retriable() && began.elapsed() < PATIENCE => {}
            result => return result,
        }
    }
}

fn failed(cause: TransactionError) -> OperatorError {
    match cause {
        error @ TransactionError::Fenced { .. } => OperatorError::TakenOver(error),
        cause => OperatorError::Unsettled { cause },
    }
}

/// Topics, prefix included.
struct Names<'n> {
    readings: &'n str,
    dead_letters: &'n str,
    marks: &'n str,
    partitions: u32,
}

impl Names<'_> {
    fn add(
        &self,
        transaction: &mut Transaction<'_>,
        letter: &Letter<'_>,
        deed: &Deed<'_>,
        written: &mut Written,
    ) -> Result<(), TransactionError> {
        let mut mark =
            Mark { action: Action::Discarded, at: rfc3339(Moment::now().ms), partition: None, records: None };
        if let Deed::Replay(Publishable { device, readings, invalid }) = deed {
            let key = device.as_bytes();
            for reading in readings {
                self.add_reading(transaction, letter.id, key, reading)?;
            }
            for (reading, invalid) in invalid {
                self.add_dead_letter(transaction, letter, key, reading, invalid)?;
            }
            written.records += readings.len() as u64;
            written.dead_letters += invalid.len() as u64;
            mark.action = Action::Replayed;
            mark.partition = Some(partition_for_key(key, self.partitions));
            mark.records = Some(readings.len() as u64);
        }
        let value = serde_json::to_vec(&mark).unwrap_or_default();
        let key = letter.id.mark_key();
        transaction.send(&TransactionRecord {
            key: Some(key.as_bytes()),
            ..TransactionRecord::new(self.marks, &value)
        })
    }

    fn add_reading(
        &self,
        transaction: &mut Transaction<'_>,
        from: LetterId,
        key: &[u8],
        reading: &[u8],
    ) -> Result<(), TransactionError> {
        let from = from.to_string();
        transaction.send(&TransactionRecord {
            key: Some(key),
            headers: &[(header::REPLAYED_FROM, from.as_bytes())],
            ..TransactionRecord::new(self.readings, reading)
        })
    }

    /// As the gateway would write it, with where the reading came from.
    fn add_dead_letter(
        &self,
        transaction: &mut Transaction<'_>,
        letter: &Letter<'_>,
        key: &[u8],
        reading: &[u8],
        invalid: &Invalid,
    ) -> Result<(), TransactionError> {
        let from = letter.id.to_string();
        let mut headers: Vec<(&str, &[u8])> = vec![
            (header::REASON, invalid.reason.name().as_bytes()),
            (header::DETAIL, invalid.detail.as_bytes()),
            (header::REPLAYED_FROM, from.as_bytes()),
        ];
        for name in [header::MQTT_TOPIC, header::CLIENT_ID, header::RECEIVED_AT] {
            headers.extend(letter.header(name).map(|value| (name, value)));
        }
        transaction.send(&TransactionRecord {
            key: Some(key),
            headers: &headers,
            ..TransactionRecord::new(self.dead_letters, reading)
        })
    }
}
