//! `penstock dlq show`: everything about one letter.

use std::io::{self, Write};
use std::ops::ControlFlow;

use penstock_kafka::ScanFrom;
use penstock_proto::topics::{DEAD_LETTERS_HANDLED, MqttTopic};
use serde::Serialize;

use super::decode::{Decoded, Kind};
use super::handled::Mark;
use super::letter::Letter;
use super::list::Entry;
use super::{LetterId, RECORDS_AT_ONCE, State, handled_if_any};
use crate::text::{columns, hexdump, printable, thousands};
use crate::{Cluster, OperatorError};

/// Characters of a header's value that are shown.
const HEADER_CHARS_MAX: usize = 1_000;
/// Characters of a payload's text that are shown.
const TEXT_CHARS_MAX: usize = 4_000;
/// Characters of a header's name that are shown.
const NAME_CHARS_MAX: usize = 100;

/// A letter with everything that is known about it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    entry: Entry,
    topic: String,
    key_hex: Option<String>,
    headers: Vec<(String, String)>,
    /// What was done with it, where something was.
    mark: Option<Mark>,
    decoded_as: &'static str,
    decoded: Decoded,
    /// The beginning of a payload that is text: of an alert.
    text: Option<String>,
    /// Where the record itself is, for what storage refused.
    source: Option<String>,
    /// The first bytes of the payload, 16 a line.
    hexdump: Vec<String>,
}

/// Reads one letter; at most `bytes_max` bytes of its payload are dumped.
///
/// # Errors
/// [`OperatorError::NoLetter`] if it is not stored (any more); others if Kafka cannot be read.
pub fn show(cluster: &Cluster, id: LetterId, bytes_max: usize) -> Result<Shown, OperatorError> {
    let mut shown = None;
    if id.is_possible() {
        let from = ScanFrom::Offsets(vec![(id.partition, id.offset)]);
        // The first record that is read is the letter, or what comes after where it was.
        shown = cluster
            .scan(id.topic.topic(), &from, 1, |batch| {
                let letter = batch.iter().next().map(|record| Letter::of(id.topic, &record));
                let found = letter.filter(|letter| letter.id == id);
                Ok(ControlFlow::Break(found.map(|letter| describe(cluster, &letter, bytes_max))))
            })?
            .flatten();
    }
    let Some(mut shown) = shown else { return Err(not_there(cluster, id)?) };
    shown.entry.state = handled_if_any(cluster)?.state(id);
    if shown.entry.state != State::Open {
        shown.mark = mark(cluster, id)?;
    }
    Ok(shown)
}

fn not_there(cluster: &Cluster, id: LetterId) -> Result<OperatorError, OperatorError> {
    let topic = cluster.topic(id.topic.topic());
    let (mut low, mut high) = (0, 0);
    if id.is_possible() {
        let inquiry = cluster.inquire(id.topic.topic(), "penstock-operator")?;
        (low, high) = inquiry.watermarks(id.partition)?;
    }
    Ok(OperatorError::NoLetter { id, topic, low, high })
}

/// The last mark of a letter.
fn mark(cluster: &Cluster, id: LetterId) -> Result<Option<Mark>, OperatorError> {
    let (key, mut found) = (id.mark_key(), None);
    cluster.scan(DEAD_LETTERS_HANDLED, &ScanFrom::Beginning, RECORDS_AT_ONCE, |batch| {
        for record in batch {
            if record.key == Some(key.as_bytes()) {
                found = Mark::parse(record.payload);
            }
        }
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    Ok(found)
}

fn describe(cluster: &Cluster, letter: &Letter<'_>, bytes_max: usize) -> Shown {
    let (decoded_as, decoded) = decode(letter);
    let hex = |bytes: &[u8]| bytes.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    let header = |(name, value): &(&str, &[u8])| {
        (printable(name.as_bytes(), NAME_CHARS_MAX), printable(value, HEADER_CHARS_MAX))
    };
    Shown {
        entry: Entry::of(letter, State::Open),
        topic: cluster.topic(letter.id.topic.topic()),
        key_hex: letter.key.map(hex),
        headers: letter.headers.iter().map(header).collect(),
        mark: None,
        decoded_as,
        decoded,
        text: letter.is_of_alert().then(|| printable(letter.payload, TEXT_CHARS_MAX)),
        source: letter.source().map(|source| {
            let topic = printable(source.topic.as_bytes(), HEADER_CHARS_MAX);
            format!("{topic}[{}] offset {}", source.partition, source.offset)
        }),
        hexdump: hexdump(letter.payload, bytes_max),
    }
}

/// A letter of the batch topic is the whole batch or one reading of it: whichever can be read further. What storage read
/// in a topic of alerts is JSON.
fn decode(letter: &Letter<'_>) -> (&'static str, Decoded) {
    if letter.is_of_alert() {
        return ("DeviceAlert", Decoded::of_alert(letter.payload));
    }
    let as_reading = Decoded::of(letter.payload, Kind::Reading);
    if !matches!(letter.mqtt_topic(), Some(MqttTopic::Batch(_))) {
        return ("SensorReading", as_reading);
    }
    let as_batch = Decoded::of(letter.payload, Kind::Batch);
    let end = |decoded: &Decoded| decoded.trouble.as_ref().map_or(usize::MAX, |trouble| trouble.at);
    if end(&as_reading) > end(&as_batch) { ("SensorReading", as_reading) } else { ("ReadingBatch", as_batch) }
}

impl Shown {
    /// Writes it for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Entry { id, time, reason, device, bytes, state, .. } = &self.entry;
        writeln!(out, "{id}  ({}[{}] offset {})", self.topic, id.partition, id.offset)?;
        let mut rows = vec![
            ("stored", time.clone()),
            ("reason", reason.clone()),
            ("device", device.clone().unwrap_or_else(|| "none in key or MQTT topic".to_owned())),
            ("key", self.key_hex.clone().unwrap_or_else(|| "none".to_owned())),
            ("state", self.mark.as_ref().map_or_else(|| state.name().to_owned(), describe_mark)),
        ];
        rows.extend(self.source.clone().map(|source| ("source", source)));
        print_rows(out, rows.into_iter().map(|(name, value)| vec![format!("  {name}"), value]))?;
        writeln!(out, "headers")?;
        print_rows(out, self.headers.iter().map(|(name, value)| vec![format!("  {name}"), value.clone()]))?;
        if *bytes == 0 {
            return match &self.source {
                Some(source) => writeln!(
                    out,
                    "payload: none; the record, where its retention has not run out, is {source}"
                ),
                None => writeln!(out, "payload: none"),
            };
        }
        writeln!(out, "payload: {} bytes, as {}", thousands(*bytes as u64), self.decoded_as)?;
        self.print_decoded(out)?;
        writeln!(out, "bytes")?;
        self.hexdump.iter().try_for_each(|line| writeln!(out, "  {line}"))
    }

    fn print_decoded(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(text) = &self.text {
            writeln!(out, "  {text}")?;
        }
        let Decoded { fields, more, trouble } = &self.decoded;
        print_rows(
            out,
            fields.iter().map(|field| {
                vec![
                    format!("  byte {}", field.at),
                    format!("{}", field.number),
                    field.name.clone(),
                    field.value.clone(),
                ]
            }),
        )?;
        if *more > 0 {
            writeln!(out, "  … and {} more fields", thousands(*more as u64))?;
        }
        match trouble {
            None => Ok(()),
            Some(trouble) => {
                let field =
                    trouble.field.map_or_else(|| "a field".to_owned(), |field| format!("field {field}"));
                writeln!(out, "  byte {}  {field} cannot be read: {}", trouble.at, trouble.why)
            }
        }
    }
}

fn describe_mark(mark: &Mark) -> String {
    let action = match mark.action {
        super::handled::Action::Replayed => "replayed",
        super::handled::Action::Discarded => "discarded",
    };
    let mut text = format!("{action} at {}", printable(mark.at.as_bytes(), NAME_CHARS_MAX));
    if let Some(partition) = mark.partition {
        text.push_str(&format!(", to partition {partition}"));
    }
    if let Some(records) = mark.records {
        text.push_str(&format!(", as {records} record{}", if records == 1 { "" } else { "s" }));
    }
    text
}

fn print_rows(out: &mut dyn Write, rows: impl Iterator<Item = Vec<String>>) -> io::Result<()> {
    columns(&rows.collect::<Vec<_>>()).into_iter().try_for_each(|line| writeln!(out, "{line}"))
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::header;

    use super::super::LetterTopic;
    use super::super::letter::tests::letter;
    use super::*;

    fn cluster() -> Cluster {
        let mut config = penstock_service::Config::default();
        config.kafka.topic_prefix = "t.".to_owned();
        Cluster::new(&config)
    }

    fn text(letter: &Letter<'_>) -> String {
        let mut text = Vec::new();
        describe(&cluster(), letter, 32).print(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_letter_without_payload_says_where_its_source_is() {
        let headers: &[(&str, &[u8])] = &[
            (header::REASON, b"too-large"),
            (header::SOURCE_TOPIC, b"t.readings"),
            (header::SOURCE_PARTITION, b"4"),
            (header::SOURCE_OFFSET, b"99"),
        ];
        let text = text(&letter(LetterTopic::Storage, b"", headers));
        assert!(text.contains("storage/0/0  (t.iot.events.storage-failures[0] offset 0)"), "{text}");
        assert!(text.contains("where its retention has not run out, is t.readings[4] offset 99"), "{text}");
    }

    #[test]
    fn an_alert_is_shown_as_the_text_that_it_is() {
        let headers: &[(&str, &[u8])] = &[
            (header::REASON, b"undecodable"),
            (header::SOURCE_TOPIC, b"t.alert.events.device-alerts"),
            (header::SOURCE_PARTITION, b"4"),
            (header::SOURCE_OFFSET, b"99"),
        ];
        let broken = text(&letter(LetterTopic::Storage, b"{\"id\": 7}", headers));
        assert!(broken.contains("payload: 9 bytes, as DeviceAlert\n  {\"id\": 7}\n"), "{broken}");
        assert!(broken.contains("  byte 7  a field cannot be read: "), "{broken}");
        assert!(broken.contains("t.alert.events.device-alerts[4] offset 99"), "{broken}");
        let whole = text(&letter(LetterTopic::Storage, b"{\"id\": \"a\"}", headers));
        assert!(!whole.contains("cannot be read"), "{whole}");
    }

    #[test]
    fn a_payload_that_breaks_off_is_shown_to_where_it_does() {
        let text = text(&letter(LetterTopic::Readings, &[0x38, 5, 0x10], &[("odd", b"\x1b[2J\xff")]));
        assert!(text.contains("  byte 0  7  sequence  5\n"), "{text}");
        assert!(text.contains("  byte 2  field 2 cannot be read: the message ends inside of it"), "{text}");
        assert!(text.contains("00000000  38 05 10"), "{text}");
        assert!(text.contains("  odd  \\u{1b}[2J\u{fffd}\n"), "{text}");
        assert!(!text.contains('\x1b'), "a terminal must not obey a letter");
    }

    #[test]
    fn json_names_what_is_there() {
        let shown = describe(&cluster(), &letter(LetterTopic::Readings, &[0x38, 5], &[]), 32);
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["id"], "readings/0/0");
        assert_eq!(json["decoded"]["fields"][0]["name"], "sequence");
        assert_eq!(json["decoded"]["trouble"], serde_json::Value::Null);
    }
}
