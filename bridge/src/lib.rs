//! The bridge: what a device published becomes Kafka records, and a receipt for them.
//!
//! It judges the payload, splits batches, keys records by device, and hands them to the producer. An invalid payload
//! becomes a dead letter, so that nothing a device sent vanishes (G5). The receipt resolves when Kafka has confirmed
//! every record of the publication; only then may anyone acknowledge (G1). The bridge never waits and never
//! acknowledges: both are its caller's.

mod metrics;
mod room;

use std::sync::Arc;

use penstock_kafka::{Completion, DeliveryError, Outgoing, Producer, Receipt, SendError, Topic};
use penstock_proto::topics::{self, MqttTopic, header};
use penstock_proto::{DeviceId, Invalid, Limits, Reason, check_reading, wire};

pub use metrics::Metrics;
pub use room::Room;

/// One MQTT publish of a device, authorized.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Where it was published; names the device and the kind of payload.
    pub topic: MqttTopic,
    /// The MQTT client identifier of the publisher.
    pub client_id: &'a str,
    /// The payload as it came.
    pub payload: &'a [u8],
    /// When the gateway received it: milliseconds since the Unix epoch. Becomes the record's timestamp.
    pub received_at_ms: i64,
}

/// What a publication was judged to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At least one valid reading goes to the readings topic.
    Readings,
    /// The whole payload goes to the dead-letter topic, for this reason.
    DeadLetter(Reason),
}

/// A publication on its way to Kafka.
#[derive(Debug)]
pub struct Submitted {
    /// What the payload was judged to be.
    pub verdict: Verdict,
    /// Resolves when Kafka has confirmed every record, or with the first failure.
    pub receipt: Receipt,
}

/// A publication that did not get on its way.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The producer's queue has no room. Nothing was sent; wait for [`Bridge::room`] and submit the same again.
    #[error("the producer's queue is full")]
    Full,
    /// Kafka can never take it.
    #[error(transparent)]
    Failed(#[from] DeliveryError),
}

/// Turns publications into records of the readings topic and dead letters.
#[derive(Debug)]
pub struct Bridge {
    producer: Producer,
    readings: Topic,
    dead_letters: Topic,
    limits: Limits,
    queue_records_max: usize,
    metrics: Metrics,
    room: Arc<Room>,
}

impl Bridge {
    /// A bridge that sends with `producer` to the topics of the contract, each named with `topic_prefix` before it.
    ///
    /// # Errors
    /// Where a topic name is not one that Kafka accepts.
    pub fn new(
        producer: Producer,
        topic_prefix: &str,
        limits: Limits,
        queue_records_max: usize,
        metrics: Metrics,
    ) -> Result<Self, penstock_kafka::KafkaError> {
        Ok(Self {
            readings: producer.topic(&format!("{topic_prefix}{}", topics::READINGS))?,
            dead_letters: producer.topic(&format!("{topic_prefix}{}", topics::READINGS_DLQ))?,
            room: Room::new(producer.clone(), queue_records_max),
            producer,
            limits,
            queue_records_max,
            metrics,
        })
    }

    /// Judges a publication and sends its records.
    ///
    /// # Errors
    /// [`SubmitError::Full`] where nothing was sent for want of room; [`SubmitError::Failed`] where Kafka can never
    /// take a record of it.
    pub fn submit(&self, publication: &Publication<'_>) -> Result<Submitted, SubmitError> {
        match publication.topic {
            MqttTopic::Reading(device) => self.submit_reading(publication, device),
            MqttTopic::Batch(device) => self.submit_batch(publication, device),
        }
    }

    /// Resolves when the producer's queue has room again after [`SubmitError::Full`].
    pub fn room(&self) -> impl Future<Output = ()> + Send + use<> {
        Room::wait(Arc::clone(&self.room))
    }

    /// The producer, for a last flush.
    pub const fn producer(&self) -> &Producer {
        &self.producer
    }

    fn submit_reading(
        &self,
        publication: &Publication<'_>,
        device: DeviceId,
    ) -> Result<Submitted, SubmitError> {
        let judged = check_reading(publication.payload, device, publication.received_at_ms, &self.limits);
        let (completion, receipt) = penstock_kafka::receipt();
        let verdict = match judged {
            Ok(_) => {
                self.send_reading(publication, device, publication.payload, completion)?;
                Verdict::Readings
            }
            Err(invalid) => {
                self.send_dead_letter(publication, device, publication.payload, &invalid, completion)?;
                Verdict::DeadLetter(invalid.reason)
            }
        };
        Ok(Submitted { verdict, receipt })
    }

    fn submit_batch(
        &self,
        publication: &Publication<'_>,
        device: DeviceId,
    ) -> Result<Submitted, SubmitError> {
        let (completion, receipt) = penstock_kafka::receipt();
        let readings = match self.count_readings(publication.payload) {
            Ok(readings) => readings,
            Err(invalid) => {
                self.send_dead_letter(publication, device, publication.payload, &invalid, completion)?;
                return Ok(Submitted { verdict: Verdict::DeadLetter(invalid.reason), receipt });
            }
        };
        // A batch goes whole or not at all, as far as can be foreseen: one that stops halfway has to be sent again.
        if self.producer.outstanding() + readings > self.queue_records_max {
            self.metrics.queue_full.inc();
            return Err(SubmitError::Full);
        }
        match self.send_batch(publication, device, &completion) {
            Ok(verdict) => {
                completion.complete(Ok(()));
                Ok(Submitted { verdict, receipt })
            }
            Err(SendBatchError { sent: 0, error }) => Err(error),
            // Some records are on their way, so the receipt has to fail and the device has to send the batch again.
            Err(SendBatchError { error, .. }) => Err(SubmitError::Failed(match error {
                SubmitError::Full => DeliveryError::Lost,
                SubmitError::Failed(error) => error,
            })),
        }
    }

    /// How many readings a batch holds, where it is a batch at all.
    fn count_readings(&self, payload: &[u8]) -> Result<usize, Invalid> {
        let mut readings = 0;
        for part in wire::split_batch(payload) {
            part?;
            readings += 1;
        }
        if readings == 0 {
            return Err(Invalid::new(Reason::Empty, "the batch holds no reading"));
        }
        if readings > self.limits.batch_readings_max {
            let detail = format!("{readings} readings, at most {}", self.limits.batch_readings_max);
            return Err(Invalid::new(Reason::TooManyReadings, detail));
        }
        Ok(readings)
    }

    fn send_batch(
        &self,
        publication: &Publication<'_>,
        device: DeviceId,
        completion: &Completion,
    ) -> Result<Verdict, SendBatchError> {
        let mut first_invalid = None;
        let mut any_valid = false;
        let parts = wire::split_batch(publication.payload).map_while(Result::ok);
        for (sent, part) in parts.enumerate() {
            let judged = check_reading(part, device, publication.received_at_ms, &self.limits);
            let outcome = match judged {
                Ok(_) => {
                    any_valid = true;
                    self.send_reading(publication, device, part, completion.clone())
                }
                Err(invalid) => {
                    first_invalid.get_or_insert(invalid.reason);
                    self.send_dead_letter(publication, device, part, &invalid, completion.clone())
                }
            };
            outcome.map_err(|error| SendBatchError { sent, error })?;
        }
        Ok(match first_invalid {
            Some(reason) if !any_valid => Verdict::DeadLetter(reason),
            _ => Verdict::Readings,
        })
    }

    fn send_reading(
        &self,
        publication: &Publication<'_>,
        device: DeviceId,
        reading: &[u8],
        completion: Completion,
    ) -> Result<(), SubmitError> {
        let record = Outgoing {
            topic: &self.readings,
            key: Some(device.as_bytes()),
            payload: reading,
            timestamp_ms: Some(publication.received_at_ms),
            headers: &[],
            partition: None,
        };
        self.send(record, completion)?;
        self.metrics.readings.inc();
        Ok(())
    }

    fn send_dead_letter(
        &self,
        publication: &Publication<'_>,
        device: DeviceId,
        payload: &[u8],
        invalid: &Invalid,
        completion: Completion,
    ) -> Result<(), SubmitError> {
        let mqtt_topic = publication.topic.to_string();
        let received_at = publication.received_at_ms.to_string();
        let record = Outgoing {
            topic: &self.dead_letters,
            key: Some(device.as_bytes()),
            payload,
            timestamp_ms: Some(publication.received_at_ms),
            headers: &[
                (header::REASON, invalid.reason.name().as_bytes()),
                (header::DETAIL, invalid.detail.as_bytes()),
                (header::MQTT_TOPIC, mqtt_topic.as_bytes()),
                (header::CLIENT_ID, publication.client_id.as_bytes()),
                (header::RECEIVED_AT, received_at.as_bytes()),
            ],
            partition: None,
        };
        self.send(record, completion)?;
        self.metrics.count_dead_letter(invalid.reason);
        Ok(())
    }

    fn send(&self, record: Outgoing<'_>, completion: Completion) -> Result<(), SubmitError> {
        match self.producer.send(record, completion) {
            Ok(()) => Ok(()),
            Err(SendError::QueueFull(_)) => {
                self.metrics.queue_full.inc();
                Err(SubmitError::Full)
            }
            Err(SendError::Permanent { error, .. }) => Err(SubmitError::Failed(error)),
        }
    }
}

/// A batch that could not be sent to its end.
struct SendBatchError {
    /// Records that were sent before.
    sent: usize,
    error: SubmitError,
}
