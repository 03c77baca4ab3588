//! The only crate of Penstock that names librdkafka: a producer whose deliveries resolve receipts, a producer of
//! transactions, a batch consumer whose rebalances are values, a scanner that reads a topic once, and topic provisioning.
//!
//! It never decides what a record means, never retries on behalf of a caller after a delivery has failed, and never
//! commits an offset by itself.

mod admin;
mod batch;
mod consumer;
mod contract;
mod error;
mod partition;
mod producer;
mod receipt;
mod scanner;
mod settings;
mod sys;
mod transactions;

pub use admin::{ProvisionError, TopicSpec, delete_topics, provision};
pub use batch::{Batch, IncomingRecord, Records};
pub use consumer::{CommitCounts, Consumer, GroupObserver, Polled};
pub use contract::topic_specs;
pub use error::{DeliveryError, KafkaError, go_on};
pub use partition::{TopicPartition, partition_for_key};
pub use producer::{Outgoing, Producer, SendError, Topic};
pub use receipt::{Completion, Receipt, receipt};
pub use scanner::{ScanFrom, Scanner};
pub use settings::{ClientSettings, ConsumerSettings, ProducerSettings, TransactionSettings};
pub use transactions::{
    GroupMetadata, Outbox, OwnedRecord, Parcel, Sent, Transaction, TransactionError, TransactionRecord,
    TransactionalProducer,
};
