//! The storage-failures topic: records that cannot become rows, with the reason in headers. A record counts as stored
//! only when Kafka has confirmed it there.

use std::borrow::Cow;

use penstock_kafka::{
    ClientSettings, DeliveryError, KafkaError, Outgoing, Producer, ProducerSettings, Receipt, SendError,
    Topic,
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

    /// Sends records and waits until Kafka has confirmed all of them. Tries until it has.
    pub(super) async fn send(
        &self,
        refused: &[Refused],
        metrics: &Metrics,
        mut backoff: Backoff,
        abort: &CancellationToken,
    ) -> Result<(), Abandoned> {
        let mut open: Vec<Letter<'_>> =
            refused.iter().map(|refused| Letter { refused, whole: true }).collect();
        while !open.is_empty() {
            let (left, trouble) = tokio::select! {
                biased;
                attempt = self.attempt(open, metrics) => attempt,
                () = abort.cancelled() => return Err(Abandoned),
            };
            open = left;
            match trouble {
                None => self.condition.worked(),
                Some(error) => {
                    self.condition.failed(error.kind(), false, &error);
                    metrics.storage_failures_retried(open.len());
                    pause_unless(backoff.next(), abort).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends all letters at once, then waits for the receipts. Returns those to be sent again, and what the trouble
    /// was, if it is one that a pause can help.
    async fn attempt<'r>(
        &self,
        letters: Vec<Letter<'r>>,
        metrics: &Metrics,
    ) -> (Vec<Letter<'r>>, Option<Failed>) {
        let (producer, topic) = match self.producer.get_or_try_init(|| async { self.connect() }).await {
            Ok(connected) => connected,
            Err(error) => return (letters, Some(error.into())),
        };
        let (mut left, mut trouble) = (Vec::new(), None);
        let sent: Vec<_> =
            letters.into_iter().map(|letter| (self.post(producer, topic, letter), letter)).collect();
        for (receipt, letter) in sent {
            let result = match receipt {
                Ok(receipt) => receipt.await.map_err(Failed::Delivery),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => metrics.storage_failure(letter.refused.invalid.reason),
                // The headers made it too large: they say where the record itself can be read.
                Err(Failed::Delivery(DeliveryError::TooLarge)) if letter.whole => {
                    left.push(Letter { whole: false, ..letter });
                }
                Err(error) => {
                    left.push(letter);
                    trouble = Some(error);
                }
            }
        }
        (left, trouble)
    }

    fn post(&self, producer: &Producer, topic: &Topic, letter: Letter<'_>) -> Result<Receipt, Failed> {
        let Letter { refused, whole } = letter;
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
            Ok(()) => Ok(receipt),
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

/// A record on its way to the topic; not `whole` where it is too large for it.
#[derive(Clone, Copy)]
struct Letter<'r> {
    refused: &'r Refused,
    whole: bool,
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
