//! Names of MQTT and Kafka topics, and the headers of dead letters.

use std::fmt;

use crate::DeviceId;

/// One reading a record, keyed by device id.
pub const READINGS: &str = "iot.events.sensor-readings";
/// Payloads that are no valid reading.
pub const READINGS_DLQ: &str = "iot.events.sensor-readings.dlq";
/// Records that storage refused.
pub const STORAGE_FAILURES: &str = "iot.events.storage-failures";
/// `DeviceAlert`s of all rules but those of kind `low-battery`, as canonical proto3 JSON, keyed by device id. Written in
/// transactions: read with `read_committed`.
pub const DEVICE_ALERTS: &str = "alert.events.device-alerts";
/// `DeviceAlert`s of rules of kind `low-battery`, like [`DEVICE_ALERTS`].
pub const LOW_BATTERY: &str = "alert.events.low-battery";
/// Alerts that could not be delivered to people: the alert's record, key and value as they were, with [`header::REASON`]
/// (`undecodable`, `refused-by-receiver`, `undelivered`), [`header::DETAIL`], [`header::RECEIVER`] and the three headers
/// of the source. One for each receiver that did not get it; again, if the process ends before its offset is committed.
pub const DELIVERY_FAILURES: &str = "alert.events.delivery-failures";
/// The alerter's state: what its rules know of each device, in the partition that the device has in [`READINGS`].
pub const ALERT_STATE: &str = "penstock.alert-state";
/// What people have said about alerts: silences and acknowledgements. Values are JSON objects; a record without a value
/// (a tombstone) takes back what its key names. Times are RFC 3339, texts have at most 1,000 bytes.
///
/// `silence/{id}`: alerts that begin while it holds are not notified. `until` (needed), `device` (a UUID) and `rule` (a
/// name), of which each that is there must match; `comment`, `by`, `at`. `penstock alerts unsilence` sets `until` to now.
///
/// `ack/{alert id}`: the episode with this id is not notified again until it is resolved. `comment`, `by`, `at`.
pub const ALERT_CONTROLS: &str = "penstock.alert-controls";
/// What operators have done with dead letters: a mark for each letter that was replayed or discarded. A letter without
/// a mark is open.
///
/// The key is `{topic}/{partition}/{offset}` of the letter as text, the topic without the configured prefix, for example
/// `iot.events.storage-failures/3/17`. The value is a JSON object: `action` is `replayed` or `discarded`, `at` is when
/// (RFC 3339), `records` says how many records a replay published and `partition` to which partition of the readings
/// topic. Marks have no headers. A mark without a value (a tombstone) opens the letter again.
///
/// A replay writes its records and their marks in one transaction: read this topic with `read_committed`.
pub const DEAD_LETTERS_HANDLED: &str = "penstock.dead-letters-handled";

/// Header names of dead letters, in all dead-letter topics.
pub mod header {
    /// A [`crate::Reason`] by name.
    pub const REASON: &str = "penstock-reason";
    /// What exactly was wrong, for people.
    pub const DETAIL: &str = "penstock-detail";
    /// The MQTT topic the payload was published to.
    pub const MQTT_TOPIC: &str = "penstock-mqtt-topic";
    /// The MQTT client identifier of the publisher.
    pub const CLIENT_ID: &str = "penstock-client-id";
    /// When the gateway received the payload: milliseconds since the Unix epoch, decimal.
    pub const RECEIVED_AT: &str = "penstock-received-at";
    /// The Kafka topic a refused record came from.
    pub const SOURCE_TOPIC: &str = "penstock-source-topic";
    /// The partition a refused record came from, decimal.
    pub const SOURCE_PARTITION: &str = "penstock-source-partition";
    /// The offset a refused record came from, decimal.
    pub const SOURCE_OFFSET: &str = "penstock-source-offset";
    /// Who did not get an alert: `alertmanager` or `webhook`.
    pub const RECEIVER: &str = "penstock-receiver";
    /// On a record that `penstock dlq replay` published: the dead letter it comes from, as `readings/3/17` or
    /// `storage/3/17`.
    pub const REPLAYED_FROM: &str = "penstock-replayed-from";
}

/// What a Kafka topic must look like; created so where it is missing, checked where it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicContract {
    /// Name without the configured prefix.
    pub name: &'static str,
    /// Exact number of partitions.
    pub partitions: u16,
    /// What becomes of old records.
    pub cleanup: Cleanup,
    /// Largest record in bytes, as Kafka counts a record batch (`max.message.bytes`).
    pub record_bytes_max: u32,
}

/// What becomes of old records (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// They are deleted.
    Delete {
        /// How long they are kept when the topic is created, in days; its operator's to change afterwards.
        retention_days: u16,
    },
    /// The last record of each key is kept.
    Compact,
}

/// Room for the largest MQTT packet and the headers of a dead letter.
const DEAD_LETTER_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// The topics that Penstock uses.
pub const CONTRACTS: &[TopicContract] = &[
    TopicContract {
        name: READINGS,
        partitions: 48,
        cleanup: Cleanup::Delete { retention_days: 7 },
        record_bytes_max: 1024 * 1024,
    },
    TopicContract {
        name: READINGS_DLQ,
        partitions: 6,
        cleanup: Cleanup::Delete { retention_days: 30 },
        record_bytes_max: DEAD_LETTER_BYTES_MAX,
    },
    TopicContract {
        name: STORAGE_FAILURES,
        partitions: 6,
        cleanup: Cleanup::Delete { retention_days: 30 },
        record_bytes_max: DEAD_LETTER_BYTES_MAX,
    },
    TopicContract {
        name: DEAD_LETTERS_HANDLED,
        partitions: 6,
        cleanup: Cleanup::Compact,
        record_bytes_max: 1024 * 1024,
    },
    TopicContract {
        name: DEVICE_ALERTS,
        partitions: 12,
        cleanup: Cleanup::Delete { retention_days: 30 },
        record_bytes_max: 1024 * 1024,
    },
    TopicContract {
        name: LOW_BATTERY,
        partitions: 12,
        cleanup: Cleanup::Delete { retention_days: 30 },
        record_bytes_max: 1024 * 1024,
    },
    TopicContract {
        name: DELIVERY_FAILURES,
        partitions: 6,
        cleanup: Cleanup::Delete { retention_days: 30 },
        record_bytes_max: DEAD_LETTER_BYTES_MAX,
    },
    TopicContract {
        name: ALERT_STATE,
        partitions: 48,
        cleanup: Cleanup::Compact,
        record_bytes_max: 1024 * 1024,
    },
    TopicContract {
        name: ALERT_CONTROLS,
        partitions: 1,
        cleanup: Cleanup::Compact,
        record_bytes_max: 1024 * 1024,
    },
];

/// What may be done on an MQTT topic of the contract `devices/{device_id}/…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttTopic {
    /// `devices/{device_id}/readings`: the payload is one `SensorReading`.
    Reading(DeviceId),
    /// `devices/{device_id}/readings/batch`: the payload is a `ReadingBatch`.
    Batch(DeviceId),
}

impl MqttTopic {
    /// Parses a topic name that a device publishes to; `None` for every other topic.
    pub fn parse(topic: &[u8]) -> Option<Self> {
        let rest = topic.strip_prefix(b"devices/")?;
        let (id, rest) = rest.split_at_checked(DeviceId::TEXT_BYTES)?;
        let make = match rest {
            b"/readings" => Self::Reading,
            b"/readings/batch" => Self::Batch,
            _ => return None,
        };
        DeviceId::parse(id).ok().map(make)
    }

    /// The device that the topic names.
    pub const fn device(&self) -> DeviceId {
        match self {
            Self::Reading(device) | Self::Batch(device) => *device,
        }
    }
}

impl fmt::Display for MqttTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading(device) => write!(f, "devices/{device}/readings"),
            Self::Batch(device) => write!(f, "devices/{device}/readings/batch"),
        }
    }
}

/// The topic to which `device` publishes single readings.
pub fn readings_topic(device: DeviceId) -> String {
    MqttTopic::Reading(device).to_string()
}

/// The topic to which `device` publishes batches.
pub fn batch_topic(device: DeviceId) -> String {
    MqttTopic::Batch(device).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

    #[test]
    fn the_two_publish_topics_parse_to_their_device() {
        let device: DeviceId = ID.parse().unwrap();
        assert_eq!(MqttTopic::parse(readings_topic(device).as_bytes()), Some(MqttTopic::Reading(device)));
        assert_eq!(MqttTopic::parse(batch_topic(device).as_bytes()), Some(MqttTopic::Batch(device)));
    }

    #[test]
    fn every_other_topic_is_none() {
        for topic in [
            String::new(),
            "devices/".into(),
            format!("devices/{ID}"),
            format!("devices/{ID}/"),
            format!("devices/{ID}/readings/"),
            format!("devices/{ID}/readings/batch/x"),
            format!("Devices/{ID}/readings"),
            format!("/devices/{ID}/readings"),
            format!("devices/{}/readings", ID.to_uppercase()),
            "devices/not-a-uuid-of-thirty-six-characters/readings".into(),
            "é/readings".into(),
        ] {
            assert_eq!(MqttTopic::parse(topic.as_bytes()), None, "{topic}");
        }
    }
}
