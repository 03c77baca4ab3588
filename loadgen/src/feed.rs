//! Records straight into a Kafka topic, for benches and tests of what comes behind the gateway.

use std::time::Duration;

use penstock_kafka::{
    ClientSettings, Completion, DeliveryError, KafkaError, Outgoing, Producer, ProducerSettings, Receipt,
    SendError, Topic, receipt,
};

/// The key of a device that has only a number.
pub fn numbered_key(device: u64) -> [u8; 16] {
    let mut key = [0xbe; 16];
    key[8..].copy_from_slice(&device.to_be_bytes());
    key
}

/// A producer of one topic that waits for room and knows when Kafka has everything.
#[derive(Debug)]
pub struct Feed {
    producer: Producer,
    topic: Topic,
    /// Of all records since the latest [`Self::delivered`].
    all: (Completion, Receipt),
}

impl Feed {
    /// A feed of `topic`, by its whole name, which may not be there yet. Records are batched for throughput.
    ///
    /// # Errors
    /// No client can be made of the settings.
    pub fn new(client: &ClientSettings, topic: &str) -> Result<Self, KafkaError> {
        let settings =
            ProducerSettings { linger_ms: 20, delivery_timeout_ms: 120_000, ..ProducerSettings::default() };
        let producer = Producer::new(client, &settings)?;
        let topic = producer.topic(topic)?;
        Ok(Self { producer, topic, all: receipt() })
    }

    /// Sends a record; blocks while the producer's queue is full. `timestamp_ms` is milliseconds since the Unix epoch,
    /// the time of sending if none.
    ///
    /// # Errors
    /// Kafka can never take this record.
    pub fn send(
        &mut self,
        key: Option<&[u8]>,
        payload: &[u8],
        timestamp_ms: Option<i64>,
    ) -> Result<(), DeliveryError> {
        loop {
            let record =
                Outgoing { topic: &self.topic, key, payload, timestamp_ms, headers: &[], partition: None };
            match self.producer.send(record, self.all.0.clone()) {
                Ok(()) => return Ok(()),
                // Complete without an error in place of the record that comes again.
                Err(SendError::QueueFull(completion)) => {
                    completion.complete(Ok(()));
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(SendError::Permanent { error, completion }) => {
                    completion.complete(Ok(()));
                    return Err(error);
                }
            }
        }
    }

    /// Waits until Kafka has everything that was sent.
    ///
    /// # Errors
    /// It does not have all of it.
    pub async fn delivered(&mut self) -> Result<(), DeliveryError> {
        let (all, delivered) = std::mem::replace(&mut self.all, receipt());
        all.complete(Ok(()));
        delivered.await
    }
}
