//! One attempt to insert one block. Never retries: it says how the attempt ended, and the caller decides.

use std::time::Duration;

use bytes::Bytes;
use penstock_service::config::ClickHouse;

use crate::claims::Claimed;
use crate::clickhouse::{CallError, Class, Client, ClientError, Statement};
use crate::fence::{FENCED, Guard};
use crate::native::COLUMNS;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every row is stored, and every materialized view has seen it.
    Stored,
    /// Nothing was sent: nothing is stored.
    NotSent(CallError),
    /// There is a greater claim on one of the partitions: nothing is stored.
    Fenced(CallError),
    /// Some row cannot be stored. Others may be, see [`Outcome::Transient`].
    Rows(CallError),
    /// The server refused for good: the same block cannot be stored before a person has changed something.
    Refused(CallError),
    /// The attempt failed and is over; a later one can work. Rows may be stored all the same: those of one month where
    /// another failed, or all of them where a materialized view failed after its table had got them.
    Transient(CallError),
    /// The block may be stored, or not, or may yet be: no answer came.
    Unknown(CallError),
}

impl From<CallError> for Outcome {
    fn from(error: CallError) -> Self {
        if matches!(error, CallError::NotSent(_)) {
            return Self::NotSent(error);
        }
        if matches!(&error, CallError::Server(error) if error.message.contains(FENCED)) {
            return Self::Fenced(error);
        }
        match error.class() {
            Class::Permanent => Self::Refused(error),
            Class::Rows => Self::Rows(error),
            Class::Transient => Self::Transient(error),
            Class::Unknown => Self::Unknown(error),
        }
    }
}

/// Inserts blocks into the table `readings` of one database.
#[derive(Clone, Debug)]
pub struct Inserter {
    client: Client,
    database: String,
    columns: String,
    structure: String,
    latest_sql: String,
    deadline: Duration,
    server_deadline_s: String,
    quorum: String,
}

/// The columns of `readings_latest`, all of which are columns of a block.
const LATEST: &str =
    "device_id, timestamp, sequence, temperature, humidity, pressure, battery_level, metrics, received_at";

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
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        let types: Vec<String> = COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        let structure = types.join(", ").replace('\'', "\\'");
        let deadline = Duration::from_millis(config.insert_timeout_ms);
        let database = config.database.clone();
        let latest_sql = format!(
            "INSERT INTO {database}.readings_latest ({LATEST}) SELECT {LATEST} FROM input('{structure}') \
             ORDER BY device_id, timestamp DESC, sequence DESC LIMIT 1 BY device_id FORMAT Native"
        );
        Self {
            client,
            database,
            columns: names.join(", "),
            structure,
            latest_sql,
            deadline,
            // The server gives up first, so that the outcome is known.
            server_deadline_s: deadline.as_secs().saturating_sub(1).max(1).to_string(),
            quorum: config.insert_quorum.to_string(),
        }
    }

    /// Sends one Native block, within `insert_timeout_ms`, and looks at no claims. `query_id` names the attempt in
    /// `system.query_log`.
    pub async fn insert(&self, block: Bytes, query_id: &str) -> Outcome {
        let sql = format!("INSERT INTO {}.readings ({}) FORMAT Native", self.database, self.columns);
        self.send(&sql, "", block, query_id).await
    }

    /// Sends one Native block to another table of the same structure, which no writer knows of.
    pub async fn insert_into(&self, table: &str, block: Bytes, query_id: &str) -> Outcome {
        let sql = format!("INSERT INTO {}.{table} ({}) FORMAT Native", self.database, self.columns);
        self.send(&sql, "", block, query_id).await
    }

    /// Sends one Native block of `rows` rows, of which ClickHouse stores none if there is a greater claim on one of the
    /// partitions when it starts.
    pub async fn insert_claimed(
        &self,
        block: Bytes,
        rows: usize,
        query_id: &str,
        claimed: &Claimed,
    ) -> Outcome {
        let Self { database, columns, structure, .. } = self;
        let Guard { condition, log_comment } = Guard::new(database, claimed, rows);
        // The condition is a constant: it is evaluated once, before the first row is read.
        let sql = format!(
            "INSERT INTO {database}.readings ({columns}) SELECT {columns} FROM input('{structure}') \
             WHERE {condition} FORMAT Native"
        );
        self.send(&sql, &log_comment, block, query_id).await
    }

    /// Sends a block whose rows are in `readings` to `readings_latest` only: the view that feeds it may have failed
    /// after its table had got them. Doing so twice changes nothing.
    ///
    /// # Errors
    /// The block may not be there, or not all of it.
    pub async fn feed_latest(&self, block: Bytes, query_id: &str) -> Result<(), CallError> {
        self.call(&self.latest_sql, "", block, query_id).await
    }

    /// Runs an `INSERT` of the caller's with its data, by the same settings.
    pub(crate) async fn insert_as(&self, sql: &str, body: Bytes, query_id: &str) -> Outcome {
        self.send(sql, "", body, query_id).await
    }

    async fn send(&self, sql: &str, log_comment: &str, block: Bytes, query_id: &str) -> Outcome {
        match self.call(sql, log_comment, block, query_id).await {
            Ok(()) => Outcome::Stored,
            Err(error) => error.into(),
        }
    }

    async fn call(
        &self,
        sql: &str,
        log_comment: &str,
        block: Bytes,
        query_id: &str,
    ) -> Result<(), CallError> {
        let mut settings = vec![
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
        if !log_comment.is_empty() {
            settings.push(("log_comment", log_comment));
        }
        if self.quorum != "1" {
            settings.push(("insert_quorum", &self.quorum));
        }
        let statement = Statement { sql, settings: &settings, query_id };
        self.client.call(&statement, block, self.deadline).await.map(drop)
    }
}
