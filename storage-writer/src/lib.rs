//! Kafka -> ClickHouse: readings become rows, in few large inserts, and offsets are committed behind them.

pub mod admit;
pub mod batch;
pub mod breaker;
pub mod claims;
pub mod clickhouse;
pub mod fence;
pub mod insert;
pub mod metrics;
pub mod migrations;
pub mod native;
pub mod offsets;
pub mod rollups;
pub mod stored;
mod writer;

pub use metrics::Metrics;
pub use writer::{WriterError, run};
