//! What can go wrong between this process and Kafka, and whether trying again can help.
//!
//! Never holds librdkafka's numbers: a code is its name, as `librdkafka` and Kafka's protocol guide print it.

use crate::sys::Code;

/// A Kafka client could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// A setting is not one that librdkafka takes, or one that carries a guarantee of Penstock.
    #[error("Kafka property {property} = {value:?}: {why}; correct it under [kafka.properties]")]
    Config {
        /// Name of the librdkafka property.
        property: String,
        /// Value as it was given; secrets are shown as `***`.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Kafka or librdkafka answered with an error.
    #[error("Kafka: {why} ({code})")]
    Client {
        /// Name of the error, such as `_TRANSPORT` or `TOPIC_AUTHORIZATION_FAILED`.
        code: String,
        /// The error in words.
        why: String,
        /// Whether the same call can succeed later without anybody changing anything.
        retriable: bool,
        /// Whether this client is of no use any more and has to be replaced.
        fatal: bool,
    },
    /// Kafka did not answer in time.
    #[error(
        "Kafka did not answer within {waited_ms} ms: {what}; is it reachable and does the topic have a leader?"
    )]
    TimedOut {
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        waited_ms: u64,
    },
}

impl KafkaError {
    /// Whether the same call can succeed later without anybody changing anything.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Config { .. } => false,
            Self::Client { retriable, fatal, .. } => *retriable && !*fatal,
            Self::TimedOut { .. } => true,
        }
    }
}

/// What a consumer's thread does with an error of a call about its partitions: it goes on, after a word in the log, since
/// partitions that were lost meanwhile are reported by themselves; unless the error ends the consumer.
///
/// # Errors
/// An error that ends the consumer.
pub fn go_on(what: &'static str, result: Result<(), KafkaError>) -> Result<(), KafkaError> {
    match result {
        Err(error @ KafkaError::Client { fatal: true, .. }) => Err(error),
        Err(error) => {
            tracing::warn!("could not {what}: {error}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Why a record is not known to be in Kafka.
///
/// A record that timed out or was lost may still have been written; sending it again is at-least-once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// Kafka did not confirm the record within `delivery_timeout_ms`.
    #[error("Kafka did not confirm the record in time")]
    TimedOut,
    /// The record is larger than `message.max.bytes` of this client or than the topic takes.
    #[error("the record is larger than the topic takes; send smaller readings or raise max.message.bytes")]
    TooLarge,
    /// The producer met an error that it cannot continue after. It is replaced; sending again can succeed.
    #[error("the Kafka producer had to be replaced: {0}")]
    Fatal(String),
    /// Kafka refused the record.
    #[error("Kafka refused the record: {why} ({code})")]
    Refused {
        /// Name of the error, such as `TOPIC_AUTHORIZATION_FAILED`.
        code: String,
        /// The error in words.
        why: String,
    },
    /// The completion was dropped, or the producer was closed, before Kafka answered.
    #[error("the outcome of the delivery is unknown because the producer was closed")]
    Lost,
}

/// Codes with which Kafka says that these very bytes will never be taken.
const RECORD_AT_FAULT: &[&str] =
    &["INVALID_RECORD", "INVALID_TIMESTAMP", "UNSUPPORTED_FOR_MESSAGE_FORMAT", "_INVALID_ARG"];

impl DeliveryError {
    /// What a code means for a record, unless the client that sent it is done for.
    pub(crate) fn of(code: Code) -> Self {
        if code.is_too_large() {
            Self::TooLarge
        } else if code.is_timeout() {
            Self::TimedOut
        } else {
            Self::Refused { code: code.name(), why: code.words() }
        }
    }

    /// The name in metric labels: lower-case words joined by hyphens.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TimedOut => "timed-out",
            Self::TooLarge => "too-large",
            Self::Fatal(_) => "fatal",
            Self::Refused { .. } => "refused",
            Self::Lost => "lost",
        }
    }

    /// Whether sending the same bytes again can never help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::TooLarge => true,
            Self::Refused { code, .. } => RECORD_AT_FAULT.contains(&code.as_str()),
            Self::TimedOut | Self::Fatal(_) | Self::Lost => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_record_itself_are_permanent() {
        let refused = |code: &str| DeliveryError::Refused { code: code.into(), why: String::new() };
        assert!(DeliveryError::TooLarge.is_permanent());
        assert!(refused("INVALID_RECORD").is_permanent());
        for error in [
            DeliveryError::TimedOut,
            DeliveryError::Fatal("epoch".into()),
            DeliveryError::Lost,
            refused("TOPIC_AUTHORIZATION_FAILED"),
            refused("NOT_ENOUGH_REPLICAS"),
            refused("_UNKNOWN_TOPIC"),
        ] {
            assert!(!error.is_permanent(), "{error}");
        }
    }
}
