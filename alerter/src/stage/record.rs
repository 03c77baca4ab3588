//! Records of the state topic, and those of alerts.
//!
//! The state topic has two kinds of keys: the 16 bytes of a device id, whose value is the device's state, and the word
//! `checkpoint`, whose value says from which offset on the partition's readings have to be read again. A record goes
//! to the partition that its readings are in. Pure.

use std::sync::Arc;

use penstock_kafka::OwnedRecord;
use penstock_proto::DeviceId;
use penstock_proto::alert_json::to_json;

use crate::engine::Raised;

const MARK: &[u8] = b"checkpoint";

/// Names of topics, with the configured prefix.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    pub(super) readings: Arc<str>,
    pub(super) device_alerts: Arc<str>,
    pub(super) low_battery: Arc<str>,
    pub(super) state: Arc<str>,
}

/// A record of the state topic that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Saved<'a> {
    /// The state of a device; `None` once it has none.
    Device(DeviceId, Option<&'a [u8]>),
    /// Readings from this offset on may be missing in the states of their devices.
    Mark(i64),
    /// Something else.
    Unknown,
}

impl<'a> Saved<'a> {
    pub(super) fn read(key: Option<&[u8]>, value: Option<&'a [u8]>) -> Self {
        match (key, value) {
            (Some(MARK), Some(value)) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|from| *from >= 0)
                .map_or(Self::Unknown, Self::Mark),
            (Some(key), value) => {
                DeviceId::try_from(key).map_or(Self::Unknown, |device| Self::Device(device, value))
            }
            (None, _) => Self::Unknown,
        }
    }
}

impl Topics {
    /// The state of a device; `None` deletes it.
    pub(super) fn state(&self, partition: i32, device: DeviceId, state: Option<Vec<u8>>) -> OwnedRecord {
        self.saved(partition, device.as_bytes(), state)
    }

    /// From where readings have to be read again.
    pub(super) fn mark(&self, partition: i32, from: i64) -> OwnedRecord {
        self.saved(partition, MARK, Some(from.to_string().into_bytes()))
    }

    fn saved(&self, partition: i32, key: &[u8], payload: Option<Vec<u8>>) -> OwnedRecord {
        let (topic, partition) = (Arc::clone(&self.state), Some(partition));
        OwnedRecord { topic, partition, key: Some(key.to_vec()), payload, headers: Vec::new() }
    }

    /// An alert, for people.
    pub(super) fn alert(&self, raised: &Raised) -> OwnedRecord {
        let topic = if raised.low_battery { &self.low_battery } else { &self.device_alerts };
        OwnedRecord {
            topic: Arc::clone(topic),
            partition: None,
            key: Some(raised.device.as_bytes().to_vec()),
            payload: Some(to_json(&raised.alert).into_bytes()),
            headers: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        let name = |name: &str| Arc::from(name);
        Topics {
            readings: name("readings"),
            device_alerts: name("alerts"),
            low_battery: name("low"),
            state: name("state"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let device = DeviceId::try_from(&[7; 16][..]).unwrap();
        let read = |record: &OwnedRecord| {
            let saved = Saved::read(record.key.as_deref(), record.payload.as_deref());
            (record.partition, format!("{saved:?}"))
        };
        let topics = topics();
        let state = topics.state(3, device, Some(b"state".to_vec()));
        assert_eq!(read(&state), (Some(3), format!("{:?}", Saved::Device(device, Some(b"state")))));
        let gone = topics.state(3, device, None);
        assert_eq!(read(&gone), (Some(3), format!("{:?}", Saved::Device(device, None))));
        assert_eq!(read(&topics.mark(4, 17)), (Some(4), format!("{:?}", Saved::Mark(17))));
    }

    #[test]
    fn what_others_have_written_is_unknown() {
        type Bytes = Option<&'static [u8]>;
        let unknown: [(Bytes, Bytes); 6] = [
            (None, Some(b"5")),
            (Some(b"checkpoint"), None),
            (Some(b"checkpoint"), Some(b"-5")),
            (Some(b"checkpoint"), Some(b"\xff")),
            (Some(b"checkpoint"), Some(b"99999999999999999999")),
            (Some(b"fifteen bytes.."), Some(b"x")),
        ];
        for (key, value) in unknown {
            assert_eq!(Saved::read(key, value), Saved::Unknown, "{key:?} {value:?}");
        }
    }
}
