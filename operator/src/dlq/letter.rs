//! A dead letter: a record of one of the two topics, and what its headers say. Headers may be missing or be nonsense:
//! other programs can write to the topics too. Pure.

use penstock_kafka::IncomingRecord;
use penstock_proto::DeviceId;
use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY, MqttTopic, header};

use super::{LetterId, LetterTopic};
use crate::text::printable;

/// Characters of a reason that are kept.
const REASON_CHARS_MAX: usize = 40;
/// What stands where a letter has no reason.
pub(super) const NO_REASON: &str = "(none)";

/// A dead letter as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Letter<'a> {
    pub(crate) id: LetterId,
    /// When it was stored: milliseconds since the Unix epoch.
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
}

/// Where a record that storage refused was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Name of the topic, prefix included.
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl<'a> Letter<'a> {
    pub(crate) fn of(topic: LetterTopic, record: &IncomingRecord<'a>) -> Self {
        Self {
            id: LetterId { topic, partition: record.partition, offset: record.offset },
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            payload: record.payload,
            headers: record.headers(),
        }
    }

    /// The value of the last header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().rev().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }

    /// The name of the reason; it need not be one of this version's table.
    pub(crate) fn reason(&self) -> String {
        self.header(header::REASON)
            .map_or_else(|| NO_REASON.to_owned(), |reason| printable(reason, REASON_CHARS_MAX))
    }

    /// What was wrong, for people, at most `chars_max` characters of it.
    pub(crate) fn detail(&self, chars_max: usize) -> String {
        printable(self.header(header::DETAIL).unwrap_or_default(), chars_max)
    }

    /// Where a device published it.
    pub(crate) fn mqtt_topic(&self) -> Option<MqttTopic> {
        self.header(header::MQTT_TOPIC).and_then(MqttTopic::parse)
    }

    /// Whose it is: the device of the key, else of the MQTT topic.
    pub(crate) fn device(&self) -> Option<DeviceId> {
        let of_key = self.key.and_then(|key| DeviceId::try_from(key).ok());
        of_key.or_else(|| self.mqtt_topic().map(|topic| topic.device()))
    }

    /// When the gateway received it; when it was stored, where no header says so. Milliseconds since the Unix epoch.
    pub(crate) fn received_at_ms(&self) -> i64 {
        self.number(header::RECEIVED_AT).unwrap_or(self.timestamp_ms)
    }

    /// Where storage read it.
    pub(crate) fn source(&self) -> Option<Source> {
        let topic = std::str::from_utf8(self.header(header::SOURCE_TOPIC)?).ok()?;
        let partition = i32::try_from(self.number(header::SOURCE_PARTITION)?).ok()?;
        let offset = self.number(header::SOURCE_OFFSET)?;
        (partition >= 0 && offset >= 0 && !topic.is_empty()).then(|| Source {
            topic: topic.to_owned(),
            partition,
            offset,
        })
    }

    /// Whether storage read it in a topic of alerts.
    pub(crate) fn is_of_alert(&self) -> bool {
        let is_alert =
            |source: Source| [DEVICE_ALERTS, LOW_BATTERY].iter().any(|name| source.topic.ends_with(name));
        self.id.topic == LetterTopic::Storage && self.source().is_some_and(is_alert)
    }

    fn number(&self, name: &str) -> Option<i64> {
        std::str::from_utf8(self.header(name)?).ok()?.parse().ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);

    pub(crate) fn letter<'a>(
        topic: LetterTopic,
        payload: &'a [u8],
        headers: &[(&'a str, &'a [u8])],
    ) -> Letter<'a> {
        Letter {
            id: LetterId { topic, partition: 0, offset: 0 },
            timestamp_ms: 5,
            key: Some(&[7; 16]),
            payload,
            headers: headers.to_vec(),
        }
    }

    #[test]
    fn headers_say_why_whose_when_and_where_from() {
        let headers: &[(&str, &[u8])] = &[
            (header::REASON, b"first"),
            (header::REASON, b"too-old"),
            (header::RECEIVED_AT, b"1790000000000"),
            (header::SOURCE_TOPIC, b"t.iot.events.sensor-readings"),
            (header::SOURCE_PARTITION, b"47"),
            (header::SOURCE_OFFSET, b"9"),
        ];
        let letter = letter(LetterTopic::Storage, b"", headers);
        assert_eq!(letter.reason(), "too-old", "the last header of a name counts");
        assert_eq!(letter.received_at_ms(), 1_790_000_000_000);
        assert_eq!(letter.device(), Some(DEVICE));
        let source = Source { topic: "t.iot.events.sensor-readings".into(), partition: 47, offset: 9 };
        assert_eq!(letter.source(), Some(source));
    }

    #[test]
    fn a_record_of_an_alert_topic_is_told_from_a_reading() {
        for (topic, expected) in [
            ("t.alert.events.device-alerts", true),
            ("alert.events.low-battery", true),
            ("t.iot.events.sensor-readings", false),
        ] {
            let headers: &[(&str, &[u8])] = &[
                (header::SOURCE_TOPIC, topic.as_bytes()),
                (header::SOURCE_PARTITION, b"1"),
                (header::SOURCE_OFFSET, b"9"),
            ];
            assert_eq!(letter(LetterTopic::Storage, b"", headers).is_of_alert(), expected, "{topic}");
            assert!(!letter(LetterTopic::Readings, b"", headers).is_of_alert());
        }
    }

    #[test]
    fn without_a_device_key_the_mqtt_topic_names_the_device() {
        let topic = format!("devices/{DEVICE}/readings");
        let mut letter = letter(LetterTopic::Readings, b"", &[]);
        letter.key = Some(b"odd");
        assert_eq!(letter.device(), None);
        letter.headers = vec![(header::MQTT_TOPIC, topic.as_bytes())];
        assert_eq!(letter.device(), Some(DEVICE));
    }

    #[test]
    fn headers_that_are_missing_or_nonsense_are_no_error() {
        let bare = letter(LetterTopic::Storage, b"", &[]);
        assert_eq!((bare.reason().as_str(), bare.source(), bare.received_at_ms()), (NO_REASON, None, 5));
        for (partition, offset) in [("-1", "0"), ("0", "-1"), ("x", "0"), ("0", ""), ("4294967296", "0")] {
            let headers: &[(&str, &[u8])] = &[
                (header::SOURCE_TOPIC, b"t"),
                (header::SOURCE_PARTITION, partition.as_bytes()),
                (header::SOURCE_OFFSET, offset.as_bytes()),
            ];
            assert_eq!(letter(LetterTopic::Storage, b"", headers).source(), None, "{partition} {offset}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(
            name in prop::sample::select(vec![
                header::REASON, header::DETAIL, header::MQTT_TOPIC, header::CLIENT_ID, header::RECEIVED_AT,
                header::SOURCE_TOPIC, header::SOURCE_PARTITION, header::SOURCE_OFFSET, "unknown",
            ]),
            value in proptest::collection::vec(any::<u8>(), 0..100),
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        ) {
            let mut letter = letter(LetterTopic::Readings, &value, &[]);
            letter.headers = vec![(name, &value)];
            letter.key = key.as_deref();
            let _ = (letter.reason(), letter.detail(10), letter.device(), letter.source(), letter.received_at_ms());
        }
    }
}
