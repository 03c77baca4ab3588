//! The storage-failures topic: records that cannot become rows, with the reason in headers. A record counts as stored
//! only when Kafka has confirmed it there.

use std::borrow::Cow;

use penstock_kafka::{
    ClientSettings, DeliveryError, KafkaError, Outgoing, Producer, ProducerSettings, SendError, Topic,
};
use penstock_proto::topics::header;
use penstock_service::backoff::Backoff;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::condition::Condition;
use super::store::{Abandoned, pause_unless};
use crate::batch::Refused;
use crate::metrics::Metrics;

/// Bytes that may be on their way to the topic.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Sends to the storage-failures topic. Connects when the first record is sent.
pub(super) struct Failures {
    settings: ClientSettings,
    topic: String,
    source_topic: String,
    producer: OnceCell<(Producer, Topic)>,
    condition: Condition,
}

impl Failures {
    /// Records of `source_topic` go to `topic`.
    pub(super) fn new(settings: ClientSettings, topic: String, source_topic: String) -> Self {
        let condition = Condition::new("storing a record in the storage-failures topic");
        Self { settings, topic, source_topic, producer: OnceCell::new(), condition }
    }

    /// Sends a record and waits until Kafka has confirmed it. Tries until it has.
    pub(super) async fn send(
        &self,
        refused: &Refused,
        metrics: &Metrics,
        mut backoff: Backoff,
        abort: &CancellationToken,
    ) -> Result<(), Abandoned> {
        let mut whole = true;
        loop {
            match self.attempt(refused, whole).await {
                Ok(()) => {
                    metrics.storage_failure(refused.invalid.reason);
                    self.condition.worked();
                    return Ok(());
                }
                // The headers made it too large: they say where the record itself can be read.
                Err(Failed::Delivery(DeliveryError::TooLarge)) if whole => whole = false,
                Err(error) => {
                    self.condition.failed(error.kind(), &error);
                    metrics.storage_failure_retried();
                    pause_unless(backoff.next(), abort).await?;
                }
            }
        }
    }

    async fn attempt(&self, refused: &Refused, whole: bool) -> Result<(), Failed> {
        let (producer, topic) = self.producer.get_or_try_init(|| async { self.connect() }).await?;
        let (partition, offset) = (refused.partition.to_string(), refused.offset.to_string());
        let detail = detail(refused, whole);
        let headers: [(&str, &[u8]); 5] = [
            (header::REASON, refused.invalid.reason.name().as_bytes()),
            (header::DETAIL, detail.as_bytes()),
            (header::SOURCE_TOPIC, self.source_topic.as_bytes()),
            (header::SOURCE_PARTITION, partition.as_bytes()),
            (header::SOURCE_OFFSET, offset.as_bytes()),
        ];
        let record = Outgoing {
            topic,
            key: refused.key.as_deref().filter(|_| whole),
            payload: if whole { &refused.payload } else { &[] },
            timestamp_ms: None,
            headers: &headers,
            partition: None,
        };
        let (completion, receipt) = penstock_kafka::receipt();
        match producer.send(record, completion) {
            Ok(()) => receipt.await.map_err(Failed::Delivery),
            Err(SendError::QueueFull(_)) => Err(Failed::QueueFull),
            Err(SendError::Permanent { error, .. }) => Err(Failed::Delivery(error)),
        }
    }

    fn connect(&self) -> Result<(Producer, Topic), KafkaError> {
        let settings = ProducerSettings { queue_bytes_max: QUEUE_BYTES_MAX, ..ProducerSettings::default() };
        let producer = Producer::new(&self.settings, &settings)?;
        let topic = producer.topic(&self.topic)?;
        Ok((producer, topic))
    }
}

fn detail(refused: &Refused, whole: bool) -> Cow<'_, str> {
    if whole {
        return Cow::Borrowed(&refused.invalid.detail);
    }
    let Refused { payload, invalid, .. } = refused;
    Cow::Owned(format!(
        "{} (the value of {} bytes is too large for this topic: read it at its source)",
        invalid.detail,
        payload.len()
    ))
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Delivery(DeliveryError),
    #[error("too many records are on their way to it")]
    QueueFull,
}

impl Failed {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "client",
            Self::Delivery(DeliveryError::TimedOut) => "timed_out",
            Self::Delivery(_) => "delivery",
            Self::QueueFull => "queue_full",
        }
    }
}
