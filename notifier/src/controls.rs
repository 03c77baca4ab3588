//! Silences and acknowledgements, folded from the records of `penstock.alert-controls`. Pure: never reads a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use penstock_proto::v1::DeviceAlert;
use serde::{Deserialize, Serialize};

/// Silences that are held; of more, those that end first are forgotten.
const SILENCES_MAX: usize = 10_000;
/// Acknowledgements that are held; of more, the oldest are forgotten.
const ACKS_MAX: usize = 100_000;
/// Longest comment and name, in bytes.
pub const TEXT_BYTES_MAX: usize = 1_000;
/// More of a record is not read.
const VALUE_BYTES_MAX: usize = 16 * 1024;
const ID_BYTES_MAX: usize = 512;

/// Alerts that begin while it holds are not notified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Only of this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Only of this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Until when; this moment is not part of it any more.
    pub until: Timestamp,
    /// Why.
    #[serde(default)]
    pub comment: String,
    /// Who said so.
    #[serde(default)]
    pub by: String,
    /// When it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

impl Silence {
    /// Whether it holds at a moment, milliseconds since the Unix epoch.
    pub fn holds(&self, now_ms: i64) -> bool {
        now_ms < self.until.as_millisecond()
    }

    fn matches(&self, alert: &DeviceAlert) -> bool {
        self.device.as_ref().is_none_or(|device| *device == alert.device_id)
            && self.rule.as_ref().is_none_or(|rule| *rule == alert.rule)
    }
}

/// Somebody knows of an episode: it is not notified again until it is resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Why.
    #[serde(default)]
    pub comment: String,
    /// Who said so.
    #[serde(default)]
    pub by: String,
    /// When it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// What a record of the topic is about: its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlKey {
    /// The silence with this id.
    Silence(String),
    /// The acknowledgement of the alert with this id.
    Ack(String),
}

impl ControlKey {
    /// Reads a key.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok()?;
        let (kind, id) = text.split_once('/')?;
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return None;
        }
        match kind {
            "silence" => Some(Self::Silence(id.to_owned())),
            "ack" => Some(Self::Ack(id.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for ControlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence(id) => write!(f, "silence/{id}"),
            Self::Ack(id) => write!(f, "ack/{id}"),
        }
    }
}

/// A record of the topic says nothing that is understood; what held before goes on holding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Its key names neither a silence nor an acknowledgement.
    #[error("the key is neither silence/ID nor ack/ALERT_ID")]
    Key,
    /// Its value is not the JSON that its key calls for.
    #[error("{key}: {why}")]
    Value {
        /// Which one.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// All that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    silences: BTreeMap<String, Silence>,
    acks: BTreeMap<String, Ack>,
    /// Acknowledgements by when they were made; those that do not say so count as the oldest.
    acks_by_time: BTreeSet<(Option<Timestamp>, String)>,
}

impl Controls {
    /// Takes in a record; the last one of a key counts.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is changed then.
    pub fn fold(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), ControlError> {
        let key = key.and_then(ControlKey::parse).ok_or(ControlError::Key)?;
        let refused = |why: String| ControlError::Value { key: key.to_string(), why };
        if let Some(value) = value.filter(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(refused(format!("{} bytes are more than {VALUE_BYTES_MAX}", value.len())));
        }
        match &key {
            ControlKey::Silence(id) => {
                let silence = value.map(serde_json::from_slice).transpose();
                match silence.map_err(|error| refused(error.to_string()))? {
                    Some(silence) => drop(self.silences.insert(id.clone(), silence)),
                    None => drop(self.silences.remove(id)),
                }
                self.make_room_for_silences();
            }
            ControlKey::Ack(id) => {
                let ack = value.map(serde_json::from_slice).transpose();
                self.set_ack(id, ack.map_err(|error| refused(error.to_string()))?);
            }
        }
        Ok(())
    }

    fn set_ack(&mut self, id: &str, ack: Option<Ack>) {
        if let Some(former) = self.acks.remove(id) {
            self.acks_by_time.remove(&(former.at, id.to_owned()));
        }
        if let Some(ack) = ack {
            self.acks_by_time.insert((ack.at, id.to_owned()));
            self.acks.insert(id.to_owned(), ack);
        }
        if self.acks.len() > ACKS_MAX
            && let Some((_, oldest)) = self.acks_by_time.pop_first()
        {
            self.acks.remove(&oldest);
        }
    }

    fn make_room_for_silences(&mut self) {
        if self.silences.len() <= SILENCES_MAX {
            return;
        }
        let first = self.silences.iter().min_by_key(|(_, silence)| silence.until).map(|(id, _)| id.clone());
        if let Some(id) = first {
            self.silences.remove(&id);
        }
    }

    /// The silence that keeps an alert from being notified at a moment, and its id.
    pub fn silencing(&self, alert: &DeviceAlert, now_ms: i64) -> Option<(&str, &Silence)> {
        let holding = |(_, silence): &(&String, &Silence)| silence.holds(now_ms) && silence.matches(alert);
        self.silences.iter().find(holding).map(|(id, silence)| (id.as_str(), silence))
    }

    /// Whether an alert that was written at a moment was written during a silence, whether or not that holds still.
    pub fn was_silenced(&self, alert: &DeviceAlert, written_ms: i64) -> bool {
        let held = |silence: &Silence| {
            silence.holds(written_ms) && silence.at.is_none_or(|at| at.as_millisecond() <= written_ms)
        };
        self.silences.values().any(|silence| held(silence) && silence.matches(alert))
    }

    /// The acknowledgement of the alert with this id.
    pub fn ack(&self, alert_id: &str) -> Option<&Ack> {
        self.acks.get(alert_id)
    }

    /// Every silence that was not taken back, ended ones too, by id.
    pub const fn silences(&self) -> &BTreeMap<String, Silence> {
        &self.silences
    }

    /// Acknowledgements there are.
    pub fn acks(&self) -> usize {
        self.acks.len()
    }

    /// Silences that hold at a moment.
    pub fn holding(&self, now_ms: i64) -> usize {
        self.silences.values().filter(|silence| silence.holds(now_ms)).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn silence(device: Option<&str>, rule: Option<&str>, until_ms: i64) -> Silence {
        Silence {
            device: device.map(str::to_owned),
            rule: rule.map(str::to_owned),
            until: Timestamp::from_millisecond(until_ms).unwrap(),
            comment: "planned work".into(),
            by: "ann".into(),
            at: None,
        }
    }

    fn fold(controls: &mut Controls, id: &str, silence: &Silence) {
        let value = serde_json::to_vec(silence).unwrap();
        controls.fold(Some(format!("silence/{id}").as_bytes()), Some(&value)).unwrap();
    }

    fn alert(device: &str, rule: &str) -> DeviceAlert {
        DeviceAlert { device_id: device.into(), rule: rule.into(), ..DeviceAlert::default() }
    }

    #[test]
    fn a_silence_holds_for_what_it_names_until_its_end() {
        let mut controls = Controls::default();
        fold(&mut controls, "both", &silence(Some("d1"), Some("hot"), 1_000));
        fold(&mut controls, "rule", &silence(None, Some("cold"), 2_000));
        let by = |device, rule, now_ms| {
            controls.silencing(&alert(device, rule), now_ms).map(|(id, _)| id.to_owned())
        };
        assert_eq!(by("d1", "hot", 999).as_deref(), Some("both"));
        assert_eq!(by("d1", "hot", 1_000), None);
        assert_eq!(by("d2", "hot", 0), None);
        assert_eq!(by("d2", "cold", 1_999).as_deref(), Some("rule"));
        assert_eq!((controls.holding(1_500), controls.silences().len()), (1, 2));
        let mut everything = Controls::default();
        fold(&mut everything, "all", &silence(None, None, 10));
        assert!(everything.silencing(&alert("x", "y"), 9).is_some());
    }

    #[test]
    fn it_is_known_afterwards_what_began_during_a_silence() {
        let mut controls = Controls::default();
        let at = Some(Timestamp::from_millisecond(500).unwrap());
        fold(&mut controls, "a", &Silence { at, ..silence(None, Some("hot"), 1_000) });
        let was = |rule, written_ms| controls.was_silenced(&alert("d", rule), written_ms);
        assert_eq!([499, 500, 999, 1_000].map(|ms| was("hot", ms)), [false, true, true, false]);
        assert!(!was("cold", 700));
    }

    #[test]
    fn the_last_record_of_a_key_counts_and_a_tombstone_takes_it_back() {
        let mut controls = Controls::default();
        fold(&mut controls, "a", &silence(None, None, 10));
        fold(&mut controls, "a", &silence(None, None, 20));
        assert!(controls.silencing(&alert("x", "y"), 15).is_some());
        controls.fold(Some(b"silence/a"), None).unwrap();
        assert_eq!(controls, Controls::default());
        controls.fold(Some(b"ack/3f"), Some(br#"{"by": "bob", "more": 1}"#)).unwrap();
        assert_eq!(controls.ack("3f").unwrap().by, "bob");
        controls.fold(Some(b"ack/3f"), None).unwrap();
        assert_eq!(controls.ack("3f"), None);
    }

    #[test]
    fn what_is_not_understood_changes_nothing() {
        let mut controls = Controls::default();
        fold(&mut controls, "a", &silence(None, None, 10));
        let before = controls.clone();
        for (key, value) in [
            (None, &b"{}"[..]),
            (Some(&b"silence/"[..]), b"{}"),
            (Some(b"mute/a"), b"{}"),
            (Some(b"silence/a"), b"{}"),
            (Some(b"silence/a"), br#"{"until": "tomorrow"}"#),
            (Some(b"ack/a"), b"\xff"),
        ] {
            assert!(controls.fold(key, Some(value)).is_err());
        }
        assert_eq!(controls, before);
    }

    #[test]
    fn the_oldest_make_room_for_new_ones() {
        let mut controls = Controls::default();
        for number in 0..=SILENCES_MAX {
            let until_ms = i64::try_from((number + 500) % (SILENCES_MAX + 1)).unwrap();
            fold(&mut controls, &number.to_string(), &silence(None, None, until_ms));
        }
        assert_eq!(controls.silences().len(), SILENCES_MAX);
        assert!(controls.silences().values().all(|silence| silence.until.as_millisecond() > 0));
        controls.fold(Some(b"ack/undated"), Some(b"{}")).unwrap();
        for number in 0..ACKS_MAX {
            let at = Timestamp::from_millisecond(i64::try_from(number).unwrap()).unwrap();
            controls.set_ack(&number.to_string(), Some(Ack { at: Some(at), ..Ack::default() }));
        }
        assert_eq!((controls.acks(), controls.acks_by_time.len()), (ACKS_MAX, ACKS_MAX));
        assert!(controls.ack("undated").is_none() && controls.ack("0").is_some());
    }

    proptest! {
        #[test]
        fn no_record_panics(key in ".{0,40}", value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Controls::default().fold(Some(key.as_bytes()), Some(&value));
        }
    }
}
