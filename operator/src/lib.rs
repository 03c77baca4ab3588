//! What an operator does with what is stored: looks at dead letters, publishes them again or discards them, proves
//! that every offset of the readings topic became a row or a dead letter, rebuilds rows from Kafka, and looks at alerts,
//! acknowledges and silences them.
//!
//! Never deletes a record; a row only where [`replay`] rebuilds it. What may be decided without asking anybody is decided by pure code ([`dlq`]: which
//! letter is meant, what has been done with it, whether it is valid now; [`audit`]: what may stand at an offset); the
//! rest asks Kafka and ClickHouse. Calls block: make them outside of an async context.

pub mod alerts;
pub mod audit;
mod cluster;
pub mod dlq;
mod error;
mod progress;
pub mod replay;
mod text;
mod time;

pub use cluster::Cluster;
pub use error::OperatorError;
pub use progress::Progress;
pub use time::{Moment, rfc3339};
