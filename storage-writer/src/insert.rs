//! One attempt to insert one block. Never retries: it says how the attempt ended, and the caller decides.

use std::time::Duration;

use bytes::Bytes;
use penstock_service::config::ClickHouse;

use crate::clickhouse::{CallError, Class, Client, ClientError, Statement};
use crate::native::COLUMNS;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every row is stored, and every materialized view has seen it.
    Stored,
    /// The server refused for good: the same block cannot be stored before a person has changed something.
    Refused(CallError),
    /// The attempt failed; a later one can work. Rows may be stored all the same where a materialized view failed
    /// after its table had got them.
    Transient(CallError),
    /// The block may be stored or not: no answer came.
    Unknown(CallError),
}

impl From<CallError> for Outcome {
    fn from(error: CallError) -> Self {
        match error.class() {
            Class::Permanent => Self::Refused(error),
            Class::Transient => Self::Transient(error),
            Class::Unknown => Self::Unknown(error),
        }
    }
}

/// Inserts blocks into the table `readings` of one database.
#[derive(Clone, Debug)]
pub struct Inserter {
    client: Client,
    sql: String,
    deadline: Duration,
    server_deadline_s: String,
}

impl Inserter {
    /// An inserter with connections of its own.
    ///
    /// # Errors
    /// [`ClientError`] if the configuration allows no connection.
    pub fn new(config: &ClickHouse) -> Result<Self, ClientError> {
        Ok(Self::with_client(Client::new(config)?, config))
    }

    /// An inserter that shares the connections of `client`.
    pub fn with_client(client: Client, config: &ClickHouse) -> Self {
        let columns: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        let sql = format!("INSERT INTO {}.readings ({}) FORMAT Native", config.database, columns.join(", "));
        let deadline = Duration::from_millis(config.insert_timeout_ms);
        // The server gives up first, so that the outcome is known.
        let server_deadline_s = deadline.as_secs().saturating_sub(1).max(1).to_string();
        Self { client, sql, deadline, server_deadline_s }
    }

    /// Sends one Native block, within `insert_timeout_ms`. `query_id` names the attempt in `system.query_log`.
    pub async fn insert(&self, block: Bytes, query_id: &str) -> Outcome {
        let settings = [
            // The answer must mean that the rows are in the table, not in a queue.
            ("async_insert", "0"),
            // No 200 before the end: errors come as errors.
            ("wait_end_of_query", "1"),
            ("max_execution_time", self.server_deadline_s.as_str()),
            // Late readings of many months are no reason to refuse a block, which is one insert for many devices.
            ("max_partitions_per_insert_block", "0"),
            // On a replicated table a block that is sent again is known by its checksum; its views may still lack it.
            ("deduplicate_blocks_in_dependent_materialized_views", "1"),
            // Collapsing rows of one key inside a block costs a quarter of the insert and is done by merges anyway.
            ("optimize_on_insert", "0"),
            // One block is one part: more threads only pass it around.
            ("max_threads", "1"),
            ("max_insert_threads", "1"),
        ];
        let statement = Statement { sql: &self.sql, settings: &settings, query_id };
        match self.client.call(&statement, block, self.deadline).await {
            Ok(_) => Outcome::Stored,
            Err(error) => error.into(),
        }
    }
}
