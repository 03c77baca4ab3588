//! What has been done with dead letters: marks, folded into the state of each letter. Pure.
//!
//! Memory: about 2 bytes a mark where neighbours were handled together, at most about 20.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::{LetterId, LetterTopic};

/// What is done with a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Replayed,
    Discarded,
}

/// The value of a mark; its form is described at [`penstock_proto::topics::DEAD_LETTERS_HANDLED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) action: Action,
    /// RFC 3339.
    pub(crate) at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partition: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) records: Option<u64>,
}

/// A longer mark is not of this program.
const MARK_BYTES_MAX: usize = 4096;

impl Mark {
    /// The mark that these bytes hold.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value.get(..value.len().min(MARK_BYTES_MAX))?).ok()
    }
}

/// Whether something has been done with a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing.
    Open,
    /// It was published again.
    Replayed,
    /// It is not wanted.
    Discarded,
}

impl State {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// The letters that something was done with.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    partitions: BTreeMap<(LetterTopic, i32), Done>,
}

#[derive(Debug, Default)]
struct Done {
    replayed: RoaringTreemap,
    discarded: RoaringTreemap,
}

impl Handled {
    /// Takes up a record of the topic of marks; of several for a letter the last counts. A key that names no letter is
    /// passed over. A value that cannot be read counts as replayed: rather not published than published twice.
    pub(crate) fn fold(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(id) = std::str::from_utf8(key).ok().and_then(|key| key.parse::<LetterId>().ok()) else {
            return;
        };
        let Ok(offset) = u64::try_from(id.offset) else { return };
        let done = self.partitions.entry((id.topic, id.partition)).or_default();
        done.replayed.remove(offset);
        done.discarded.remove(offset);
        let Some(value) = value else { return };
        match Mark::parse(value).map(|mark| mark.action) {
            Some(Action::Discarded) => done.discarded.insert(offset),
            Some(Action::Replayed) | None => done.replayed.insert(offset),
        };
    }

    /// What has been done with a letter.
    pub(crate) fn state(&self, id: LetterId) -> State {
        let (Some(done), Ok(offset)) =
            (self.partitions.get(&(id.topic, id.partition)), u64::try_from(id.offset))
        else {
            return State::Open;
        };
        if done.replayed.contains(offset) {
            State::Replayed
        } else if done.discarded.contains(offset) {
            State::Discarded
        } else {
            State::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(offset: i64) -> LetterId {
        LetterId { topic: LetterTopic::Storage, partition: 2, offset }
    }

    fn mark(action: Action) -> Vec<u8> {
        let mark = Mark { action, at: "2026-01-31T12:00:00.000Z".into(), partition: None, records: None };
        serde_json::to_vec(&mark).unwrap()
    }

    #[test]
    fn a_mark_has_the_form_that_is_documented() {
        assert_eq!(
            String::from_utf8(mark(Action::Discarded)).unwrap(),
            r#"{"action":"discarded","at":"2026-01-31T12:00:00.000Z"}"#
        );
        let long = br#"{"action":"replayed","at":"x","partition":5,"records":1,"more":true}"#;
        let expected =
            Mark { action: Action::Replayed, at: "x".into(), partition: Some(5), records: Some(1) };
        assert_eq!(Mark::parse(long), Some(expected));
    }

    #[test]
    fn the_last_mark_of_a_letter_counts_and_a_tombstone_opens_it() {
        let mut handled = Handled::default();
        let key = id(17).mark_key();
        assert_eq!(handled.state(id(17)), State::Open);
        handled.fold(key.as_bytes(), Some(&mark(Action::Discarded)));
        assert_eq!(handled.state(id(17)), State::Discarded);
        handled.fold(key.as_bytes(), Some(&mark(Action::Replayed)));
        assert_eq!(handled.state(id(17)), State::Replayed);
        assert_eq!(handled.state(id(18)), State::Open);
        assert_eq!(handled.state(LetterId { topic: LetterTopic::Readings, ..id(17) }), State::Open);
        handled.fold(key.as_bytes(), None);
        assert_eq!(handled.state(id(17)), State::Open);
    }

    #[test]
    fn a_mark_that_cannot_be_read_counts_as_replayed_and_a_key_that_cannot_is_passed_over() {
        let mut handled = Handled::default();
        handled.fold(id(1).mark_key().as_bytes(), Some(b"{"));
        handled.fold(b"\xff", Some(b"{}"));
        handled.fold(b"no/letter", Some(b"{}"));
        assert_eq!(handled.state(id(1)), State::Replayed);
        assert_eq!(handled.partitions.len(), 1);
    }

    proptest! {
        #[test]
        fn folding_is_a_map_of_last_values(
            marks in proptest::collection::vec((0i64..20, proptest::option::of(any::<bool>())), 0..100)
        ) {
            let mut handled = Handled::default();
            let mut model = BTreeMap::new();
            for (offset, action) in marks {
                let action = action.map(|replayed| if replayed { Action::Replayed } else { Action::Discarded });
                handled.fold(id(offset).mark_key().as_bytes(), action.map(mark).as_deref());
                model.insert(offset, action);
            }
            for offset in 0..20 {
                let expected = match model.get(&offset).copied().flatten() {
                    None => State::Open,
                    Some(Action::Replayed) => State::Replayed,
                    Some(Action::Discarded) => State::Discarded,
                };
                prop_assert_eq!(handled.state(id(offset)), expected);
            }
        }

        #[test]
        fn no_mark_panics(key in ".{0,60}", value in proptest::collection::vec(any::<u8>(), 0..100)) {
            Handled::default().fold(key.as_bytes(), Some(&value));
        }
    }
}
