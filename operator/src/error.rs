//! Why a command could not do its work, and what to do about it.

use penstock_kafka::{KafkaError, ProvisionError, TransactionError};
use penstock_storage_writer::clickhouse::{CallError, ClientError};

use crate::dlq::LetterId;

/// A command of an operator could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// A topic could not be read.
    #[error("topic {topic} cannot be read: {cause}")]
    Kafka {
        /// Name of the topic, prefix included.
        topic: String,
        /// What Kafka said.
        cause: KafkaError,
    },
    /// A topic of the contract is not there.
    #[error(
        "topic {0} is not there: `penstock run` creates it at its start; check kafka.brokers and kafka.topic_prefix"
    )]
    NoTopic(String),
    /// Kafka stopped handing out records before the end of a topic.
    #[error(
        "no record of topic {topic} came within {waited_s} s, although its end is not reached{because}; \
         is every partition led?"
    )]
    Stalled {
        /// Name of the topic, prefix included.
        topic: String,
        /// How long was waited.
        waited_s: u64,
        /// The last error of the connection, with a separator before it; empty if there was none.
        because: String,
    },
    /// The topic of marks could not be created or is not as it must be.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// A dead letter is not stored (any more).
    #[error(
        "{id} is not there: {topic}[{partition}] holds offsets {low} to {high}, the last excluded; \
         `penstock dlq list --all` shows what there is",
        partition = id.partition
    )]
    NoLetter {
        /// The letter that was asked for.
        id: LetterId,
        /// Name of its topic, prefix included.
        topic: String,
        /// Oldest offset that is stored.
        low: i64,
        /// Next offset to be written.
        high: i64,
    },
    /// Another replay or discard has taken over.
    #[error(
        "another `penstock dlq replay` or `discard` with the same kafka.topic_prefix was started and has taken over \
         ({0}); what this one had done stays done, and nothing is published twice"
    )]
    TakenOver(TransactionError),
    /// Kafka does not answer, or a commit has no outcome.
    #[error(
        "{cause}; whether the last batch of letters was published is not known here: run the same command again, \
         it finds out and publishes nothing twice"
    )]
    Unsettled {
        /// What Kafka said.
        cause: TransactionError,
    },
    /// Kafka refuses what is to be published.
    #[error("the letters from {first} on cannot be published: {cause}; nothing of that batch was")]
    Refused {
        /// The first letter of the batch.
        first: LetterId,
        /// What Kafka said.
        cause: TransactionError,
    },
    /// No record has this alert id.
    #[error(
        "there is no alert {0:?} in the alert topics; `penstock alerts list --state all` shows what there is"
    )]
    NoAlert(String),
    /// No silence that holds has this id.
    #[error("there is no silence {0:?} that holds; `penstock alerts silences` shows what there is")]
    NoSilence(String),
    /// A record was not stored.
    #[error("topic {topic} does not take the record: {cause}; it may or may not be there")]
    NotWritten {
        /// Name of the topic, prefix included.
        topic: String,
        /// What Kafka said.
        cause: TransactionError,
    },
    /// ClickHouse cannot be asked with this configuration.
    #[error(transparent)]
    ClickHouseClient(#[from] ClientError),
    /// ClickHouse did not answer a question.
    #[error("ClickHouse, {what}: {cause}")]
    ClickHouse {
        /// What was asked.
        what: &'static str,
        /// What it said.
        cause: CallError,
    },
    /// ClickHouse answered something that was not asked for.
    #[error(
        "ClickHouse, {what}: the answer holds {line:?}, which is not understood; is the schema this version's?"
    )]
    Answer {
        /// What was asked.
        what: &'static str,
        /// The line of the answer.
        line: String,
    },
    /// The writer's group has committed nothing.
    #[error(
        "consumer group {group} has no committed offset in {topic}: the writer has not run yet, or with another \
         writer.group"
    )]
    WriterNeverRan {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
    },
    /// Output could not be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
    /// A document could not be encoded.
    #[error("the output cannot be encoded: {0}")]
    Json(#[from] serde_json::Error),
}
