//! Which dead letter: its topic, partition and offset.

use std::fmt;
use std::str::FromStr;

use penstock_proto::topics::{CONTRACTS, READINGS_DLQ, STORAGE_FAILURES};

/// One of the two dead-letter topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LetterTopic {
    /// Payloads that are no valid reading.
    Readings,
    /// Records that storage refused.
    Storage,
}

impl LetterTopic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Readings, Self::Storage];

    /// The name on the command line and in ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Storage => "storage",
        }
    }

    /// The topic in Kafka, without the configured prefix.
    pub const fn topic(self) -> &'static str {
        match self {
            Self::Readings => READINGS_DLQ,
            Self::Storage => STORAGE_FAILURES,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| name == topic.name() || name == topic.topic())
    }
}

impl FromStr for LetterTopic {
    type Err = ParseIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name).ok_or_else(|| ParseIdError(name.to_owned()))
    }
}

impl fmt::Display for LetterTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dead letter's identity, written `readings/3/17` or `storage/3/17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// Its topic.
    pub topic: LetterTopic,
    /// Its partition, from 0.
    pub partition: i32,
    /// Its offset, from 0.
    pub offset: i64,
}

/// The text names no dead letter and no dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither `readings` or `storage` nor the id of a dead letter, such as readings/3/17 or storage/0/4"
)]
pub struct ParseIdError(String);

impl LetterId {
    /// The key of the letter's mark; see [`penstock_proto::topics::DEAD_LETTERS_HANDLED`].
    pub fn mark_key(&self) -> String {
        format!("{}/{}/{}", self.topic.topic(), self.partition, self.offset)
    }

    /// Whether the topic has such a partition, by its contract.
    pub(crate) fn is_possible(&self) -> bool {
        let contract = CONTRACTS.iter().find(|contract| contract.name == self.topic.topic());
        contract.is_some_and(|contract| self.partition < i32::from(contract.partitions))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let topic = LetterTopic::parse(parts.next()?)?;
        let partition = digits(parts.next()?)?.parse().ok()?;
        let offset = digits(parts.next()?)?.parse().ok()?;
        Some(Self { topic, partition, offset })
    }
}

/// The text itself, if it is digits only.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

impl FromStr for LetterId {
    type Err = ParseIdError;

    /// Reads an id; the topic may also be written as Kafka has it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| ParseIdError(text.to_owned()))
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_a_topic_a_partition_and_an_offset() {
        let id = LetterId { topic: LetterTopic::Storage, partition: 3, offset: 17 };
        assert_eq!("storage/3/17".parse(), Ok(id));
        assert_eq!("iot.events.storage-failures/3/17".parse(), Ok(id));
        assert_eq!(id.mark_key(), "iot.events.storage-failures/3/17");
        assert_eq!("readings".parse(), Ok(LetterTopic::Readings));
    }

    #[test]
    fn anything_else_is_refused_by_its_text() {
        for text in [
            "",
            "storage",
            "storage/3",
            "storage/3/",
            "storage//17",
            "storage/+3/17",
            "storage/-3/17",
            "storage/3/17/1",
            "storage/3/99999999999999999999",
            "storage/2147483648/0",
            "other/3/17",
            "Storage/3/17",
            " storage/3/17",
        ] {
            let error = text.parse::<LetterId>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("{text:?} is neither")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn ids_and_mark_keys_read_back(storage: bool, partition in 0..i32::MAX, offset in 0..i64::MAX) {
            let topic = if storage { LetterTopic::Storage } else { LetterTopic::Readings };
            let id = LetterId { topic, partition, offset };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.mark_key().parse(), Ok(id));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<LetterId>();
        }
    }
}
