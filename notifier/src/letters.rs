//! Delivery failures: records that a receiver will not get go to a topic of their own before their offset is committed.
//! If the process ends in between, they are there twice, with the same source.

use std::time::Duration;

use penstock_kafka::{
    ClientSettings, DeliveryError, KafkaError, Outgoing, Producer, ProducerSettings, SendError, Topic,
    receipt,
};
use penstock_proto::topics::{DELIVERY_FAILURES, header};
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;
use tokio_util::sync::CancellationToken;

use crate::metrics::Counts;
use crate::notice::{Letter, Receiver};

const QUEUE_BYTES_MAX: usize = 32 << 20;
const QUEUE_RECORDS_MAX: usize = 10_000;
/// Pauses before a letter that Kafka did not take is sent again, in milliseconds.
const PAUSES_MS: (u64, u64) = (100, 5_000);
const DETAIL_BYTES_MAX: usize = 1_000;

/// The role ends before something was done; its offset is not committed, so it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// Writes letters of one receiver.
#[derive(Debug)]
pub(crate) struct Letters {
    producer: Producer,
    topic: Topic,
    prefix: String,
    receiver: Receiver,
    counts: Counts,
    condition: Condition,
    abort: CancellationToken,
}

impl Letters {
    pub(crate) fn new(
        client: &ClientSettings,
        prefix: &str,
        receiver: Receiver,
        counts: Counts,
        abort: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let settings = ProducerSettings {
            queue_bytes_max: QUEUE_BYTES_MAX,
            queue_records_max: QUEUE_RECORDS_MAX,
            ..ProducerSettings::default()
        };
        let producer = Producer::new(client, &settings)?;
        let topic = producer.topic(&format!("{prefix}{DELIVERY_FAILURES}"))?;
        let condition = Condition::new("writing delivery failures to Kafka");
        Ok(Self { producer, topic, prefix: prefix.to_owned(), receiver, counts, condition, abort })
    }

    /// Comes back when Kafka has the letter on all in-sync replicas.
    pub(crate) async fn send(&self, letter: &Letter) -> Result<(), Abandoned> {
        tracing::error!(
            receiver = self.receiver.name(),
            reason = letter.reason.name(),
            topic = letter.source.part.0.name(),
            partition = letter.source.part.1,
            offset = letter.source.offset,
            "an alert was not delivered: {}",
            letter.detail
        );
        let mut backoff = Backoff::new(PAUSES_MS.0, PAUSES_MS.1);
        // What Kafka takes without its payload is better than nothing: the source says where it is.
        let mut is_whole = true;
        loop {
            let sent = tokio::select! {
                biased;
                () = self.abort.cancelled() => return Err(Abandoned),
                sent = self.attempt(letter, is_whole) => sent,
            };
            match sent {
                Ok(()) => {
                    self.condition.worked();
                    self.counts.letter(letter.reason);
                    return Ok(());
                }
                Err(error) => {
                    is_whole &= !error.is_permanent();
                    self.condition.failed(error.kind(), false, &error);
                }
            }
            tokio::select! {
                biased;
                () = self.abort.cancelled() => return Err(Abandoned),
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn attempt(&self, letter: &Letter, is_whole: bool) -> Result<(), DeliveryError> {
        let (topic, partition) = letter.source.part;
        let topic = format!("{}{}", self.prefix, topic.name());
        let (partition, offset) = (partition.to_string(), letter.source.offset.to_string());
        let mut end = letter.detail.len().min(DETAIL_BYTES_MAX);
        while !letter.detail.is_char_boundary(end) {
            end -= 1;
        }
        let headers: [(&str, &[u8]); 6] = [
            (header::REASON, letter.reason.name().as_bytes()),
            (header::DETAIL, &letter.detail.as_bytes()[..end]),
            (header::RECEIVER, self.receiver.name().as_bytes()),
            (header::SOURCE_TOPIC, topic.as_bytes()),
            (header::SOURCE_PARTITION, partition.as_bytes()),
            (header::SOURCE_OFFSET, offset.as_bytes()),
        ];
        let record = Outgoing {
            topic: &self.topic,
            key: letter.key.as_deref().filter(|_| is_whole),
            payload: if is_whole { &letter.payload } else { &[] },
            timestamp_ms: None,
            headers: &headers,
            partition: None,
        };
        let (completion, receipt) = receipt();
        match self.producer.send(record, completion) {
            Ok(()) => receipt.await,
            Err(SendError::QueueFull(completion)) => {
                drop(completion);
                Err(DeliveryError::TimedOut)
            }
            Err(SendError::Permanent { completion, error }) => {
                drop(completion);
                Err(error)
            }
        }
    }

    /// Waits for what Kafka has not answered yet.
    pub(crate) async fn flush(&self, deadline: Duration) -> bool {
        self.producer.flush(deadline).await
    }
}
