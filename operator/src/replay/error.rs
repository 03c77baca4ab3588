//! Why a replay ended without its work done, and what is to be done about it.

use penstock_storage_writer::clickhouse::{CallError, ClientError};
use penstock_storage_writer::fence::TakeOverError;

use crate::OperatorError;

/// A replay could not be carried out. `readings` is whole in any case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Kafka could not be asked or read, or ClickHouse not be asked.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// ClickHouse cannot be used with this configuration.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A statement failed.
    #[error("ClickHouse, {what}: {cause}")]
    ClickHouse {
        /// What was being done.
        what: &'static str,
        /// What it said.
        cause: CallError,
    },
    /// Tables of a cluster cannot be exchanged on all replicas at one moment.
    #[error(
        "clickhouse.cluster is {0:?}: a replay exchanges tables, which is atomic on a single server only, and is not \
         done on a cluster"
    )]
    Cluster(String),
    /// Writers that store at least once heed no claims.
    #[error(
        "writer.guarantee is at-least-once: such writers cannot be held up while tables are exchanged; stop them, and \
         run this with --set writer.guarantee=exactly-once"
    )]
    NotFenced,
    /// The database cannot exchange tables.
    #[error("the engine of database {database} is {engine}; only Atomic ones can exchange tables")]
    Engine {
        /// The database.
        database: String,
        /// Its engine.
        engine: String,
    },
    /// `--from` is behind `--to`.
    #[error("--from {from} is not before --to {to}; nothing lies between them")]
    Backwards {
        /// The beginning.
        from: String,
        /// The end.
        to: String,
    },
    /// Another replay of the same database is at work.
    #[error(
        "another replay of this database is at work: {owner}, {seconds} s ago; wait until it has ended, or end it"
    )]
    Another {
        /// Who.
        owner: String,
        /// How long ago it said so.
        seconds: i64,
    },
    /// Kafka deleted records that were to be read.
    #[error(
        "Kafka deleted records of partition {partition} before offset {low} while it was being read; nothing was \
         changed. Run it again with a later --from"
    )]
    Overtaken {
        /// The partition.
        partition: usize,
        /// The oldest offset now.
        low: u64,
    },
    /// A block could not be stored.
    #[error("rows cannot be stored in {table} after {attempts} attempts: {cause}; nothing was changed")]
    Insert {
        /// The table.
        table: String,
        /// How often it was tried.
        attempts: u32,
        /// What ClickHouse said at last.
        cause: CallError,
    },
    /// ClickHouse refuses very many rows.
    #[error("ClickHouse refuses more than {max} rows; nothing was changed. One of them: {cause}")]
    TooManyRefused {
        /// How many may be refused.
        max: u64,
        /// What ClickHouse said.
        cause: CallError,
    },
    /// The table changed in a way that a copy cannot follow.
    #[error("{0}; nothing was changed. Run it again once that is over")]
    Moved(String),
    /// Rows are missing in the shadow.
    #[error(
        "{missing} rows of readings are missing in {table} after copying; nothing was changed. Run it again"
    )]
    Missing {
        /// How many.
        missing: u64,
        /// The shadow table.
        table: String,
    },
    /// Inserts could not be held up.
    #[error("writers cannot be held up: {0}; nothing was changed")]
    Hold(TakeOverError),
    /// The hold ended too early.
    #[error("inserts were not held up for long enough to exchange tables; nothing was changed. Run it again")]
    HoldLost,
    /// A state that is stored cannot be read.
    #[error(
        "the comment of {table} says that a replay has exchanged it but not which: {comment:?}; look for tables whose \
         names begin with readings_replay_, and set the comment anew once you know"
    )]
    Mark {
        /// The table.
        table: String,
        /// Its comment.
        comment: String,
    },
    /// Ended by a signal.
    #[error("interrupted: nothing was changed")]
    Interrupted,
    /// A thread of this process could not go on.
    #[error("an insert ended in a way it must not: {0}")]
    Task(String),
}
