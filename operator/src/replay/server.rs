//! ClickHouse as a replay uses it: questions that are asked again, long statements that can be ended, the tables of a
//! replay and what is written on them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use penstock_service::config::ClickHouse;
use penstock_storage_writer::clickhouse::{CallError, Class, Client};
use penstock_storage_writer::insert::Inserter;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::ReplayError;
use super::ranges::Ranges;
use crate::OperatorError;

/// The table that is rebuilt.
pub(super) const READINGS: &str = "readings";
/// Begins the names of a replay's own tables; its id follows.
const PREFIX: &str = "readings_replay_";
/// Begins the comment of a table that a replay has made, until the replay is done.
const MARK: &str = "Penstock replay ";
/// No statement takes longer.
const DEADLINE: Duration = Duration::from_secs(24 * 3_600);
const ATTEMPTS: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Settings of statements that move rows.
const MOVING: [(&str, &str); 8] = [
    // Late readings of many months are no reason to refuse.
    ("max_partitions_per_insert_block", "0"),
    // Memory is bounded by these, not by the table.
    ("max_threads", "2"),
    ("max_insert_threads", "1"),
    ("min_insert_block_size_rows", "500000"),
    ("min_insert_block_size_bytes", "134217728"),
    ("max_bytes_before_external_group_by", "500000000"),
    ("max_bytes_before_external_sort", "500000000"),
    ("optimize_on_insert", "0"),
];

/// What stands in the comment of a shadow table, and so moves with it when tables are exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Of the replay.
    pub(super) id: String,
    pub(super) ranges: Ranges,
    pub(super) keep_old: bool,
    /// The comment that `readings` is to have again.
    pub(super) comment: String,
}

impl Mark {
    fn text(&self) -> String {
        // A mark is made of strings and numbers, which JSON has.
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// Whether a comment is a mark.
    fn is_one(comment: &str) -> bool {
        comment.starts_with(MARK)
    }

    fn parse(comment: &str) -> Option<Self> {
        serde_json::from_str(comment.strip_prefix(MARK)?).ok()
    }
}

/// A table of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) table: String,
    /// Of the replay.
    pub(super) id: String,
}

/// ClickHouse, for one replay.
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) inserter: Inserter,
    pub(super) runtime: Handle,
    pub(super) database: String,
    /// Of this replay.
    pub(super) id: String,
    cancel: CancellationToken,
    statements: AtomicU64,
}

impl Server {
    pub(super) fn new(
        config: &ClickHouse,
        runtime: &Handle,
        cancel: &CancellationToken,
    ) -> Result<Self, ReplayError> {
        let client = Client::new(config)?;
        let inserter = Inserter::with_client(client.clone(), config);
        let mut id = uuid::Uuid::new_v4().simple().to_string();
        id.truncate(16);
        Ok(Self {
            client,
            inserter,
            runtime: runtime.clone(),
            database: config.database.clone(),
            id,
            cancel: cancel.clone(),
            statements: AtomicU64::new(0),
        })
    }

    /// The same for work that must not be left half done.
    pub(super) fn without_cancel(&self) -> Self {
        Self {
            client: self.client.clone(),
            inserter: self.inserter.clone(),
            runtime: self.runtime.clone(),
            database: self.database.clone(),
            id: self.id.clone(),
            cancel: CancellationToken::new(),
            // Names of statements stay different.
            statements: AtomicU64::new(self.statements.load(Ordering::Relaxed) + 1_000_000),
        }
    }

    /// The shadow table of a replay; once tables are exchanged, the old one.
    pub(super) fn shadow(id: &str) -> String {
        format!("{PREFIX}{id}")
    }

    /// Where a replay notes the keys of rows that are dropped.
    pub(super) fn gone(id: &str) -> String {
        format!("{PREFIX}{id}_gone")
    }

    /// # Errors
    /// [`ReplayError::Interrupted`] if the replay is to end.
    pub(super) fn go_on(&self) -> Result<(), ReplayError> {
        if self.cancel.is_cancelled() { Err(ReplayError::Interrupted) } else { Ok(()) }
    }

    /// A name for a statement, unlike all others.
    pub(super) fn statement_id(&self) -> String {
        format!("penstock-replay-{}-{}", self.id, self.statements.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks something, again where there is no answer.
    pub(super) fn ask(&self, what: &'static str, sql: &str) -> Result<String, ReplayError> {
        self.runtime.block_on(async {
            let mut attempt = 1;
            loop {
                match self.client.execute(sql, &[("max_threads", "2")], "", DEADLINE).await {
                    Ok(answer) => return Ok(answer),
                    Err(cause) if cause.class() != Class::Permanent && attempt < ATTEMPTS => {
                        attempt += 1;
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(cause) => return Err(ReplayError::ClickHouse { what, cause }),
                }
            }
        })
    }

    /// Asks for numbers: one line of them.
    pub(super) fn numbers<const N: usize>(
        &self,
        what: &'static str,
        sql: &str,
    ) -> Result<[u64; N], ReplayError> {
        let answer = self.ask(what, sql)?;
        parse_numbers(answer.trim()).ok_or_else(|| unreadable(what, &answer))
    }

    /// Asks for lines of numbers.
    pub(super) fn lines<const N: usize>(
        &self,
        what: &'static str,
        sql: &str,
    ) -> Result<Vec<[u64; N]>, ReplayError> {
        let answer = self.ask(what, sql)?;
        answer.lines().map(|line| parse_numbers(line).ok_or_else(|| unreadable(what, line))).collect()
    }

    /// Runs a statement that changes a table that nobody else knows of, to its end or until the replay is to end.
    pub(super) fn run(&self, what: &'static str, sql: &str) -> Result<(), ReplayError> {
        self.go_on()?;
        let id = self.statement_id();
        let ended = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => None,
                ended = self.client.execute(sql, &MOVING, &id, DEADLINE) => Some(ended),
            }
        });
        match ended {
            Some(Ok(_)) => Ok(()),
            Some(Err(cause)) => Err(ReplayError::ClickHouse { what, cause }),
            None => {
                self.runtime.block_on(self.end(&id));
                Err(ReplayError::Interrupted)
            }
        }
    }

    /// Runs a statement that must not be left half done; it can be done again.
    pub(super) fn finish(&self, what: &'static str, sql: &str) -> Result<(), ReplayError> {
        self.runtime.block_on(async {
            let mut attempt = 1;
            loop {
                let id = self.statement_id();
                match self.client.execute(sql, &MOVING, &id, DEADLINE).await {
                    Ok(_) => return Ok(()),
                    Err(cause) if cause.class() != Class::Permanent && attempt < ATTEMPTS => {
                        attempt += 1;
                        self.end(&id).await;
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(cause) => return Err(ReplayError::ClickHouse { what, cause }),
                }
            }
        })
    }

    /// Kills statements by the beginning of their names and waits until they are gone, as far as ClickHouse can be
    /// asked.
    pub(super) async fn end(&self, prefix: &str) {
        let these = format!("startsWith(query_id, '{prefix}')");
        for _ in 0..100 {
            let _ = self.client.query(&format!("KILL QUERY WHERE {these} ASYNC FORMAT TSV")).await;
            let left =
                self.client.query(&format!("SELECT count() FROM system.processes WHERE {these}")).await;
            if left.is_ok_and(|left| left.trim() == "0") {
                return;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Waits until a statement has ended by itself.
    pub(super) async fn ended(&self, id: &str) {
        loop {
            let sql = format!("SELECT count() FROM system.processes WHERE query_id = '{id}'");
            if self.client.query(&sql).await.is_ok_and(|left| left.trim() == "0") {
                return;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn comment(&self, table: &str) -> Result<String, ReplayError> {
        let sql = format!(
            "SELECT comment FROM system.tables WHERE database = '{}' AND name = '{table}' FORMAT JSONCompactEachRow",
            self.database
        );
        let answer = self.ask("read the comment of a table", &sql)?;
        let line = answer.lines().next().unwrap_or("[\"\"]");
        let cells: Vec<String> =
            serde_json::from_str(line).map_err(|_| unreadable("read the comment of a table", line))?;
        Ok(cells.into_iter().next().unwrap_or_default())
    }

    /// The mark on `readings`, if a replay has exchanged it and was not finished; else its comment.
    pub(super) fn marked(&self) -> Result<Result<Mark, String>, ReplayError> {
        let comment = self.comment(READINGS)?;
        if !Mark::is_one(&comment) {
            return Ok(Err(comment));
        }
        Mark::parse(&comment).map(Ok).ok_or_else(|| ReplayError::Mark { table: READINGS.to_owned(), comment })
    }

    /// Makes the shadow of `readings`.
    pub(super) fn create_shadow(&self, mark: &Mark) -> Result<(), ReplayError> {
        let (database, shadow) = (&self.database, Self::shadow(&mark.id));
        let comment = escape(&mark.text());
        self.run(
            "create the shadow table",
            &format!("CREATE TABLE {database}.{shadow} AS {database}.readings COMMENT '{comment}'"),
        )
    }

    /// Writes another mark on the shadow.
    pub(super) fn mark_shadow(&self, mark: &Mark) -> Result<(), ReplayError> {
        let sql = format!(
            "ALTER TABLE {}.{} MODIFY COMMENT '{}'",
            self.database,
            Self::shadow(&mark.id),
            escape(&mark.text())
        );
        self.run("mark the shadow table", &sql)
    }

    /// Takes the mark off `readings`: the replay is done.
    pub(super) fn unmark(&self, mark: &Mark) -> Result<(), ReplayError> {
        let sql =
            format!("ALTER TABLE {}.readings MODIFY COMMENT '{}'", self.database, escape(&mark.comment));
        self.finish("take the mark off readings", &sql)
    }

    /// Drops the tables of a replay; those that are not there are none.
    pub(super) fn drop_tables(&self, id: &str) -> Result<(), ReplayError> {
        for table in [Self::gone(id), Self::shadow(id)] {
            let sql = format!(
                "DROP TABLE IF EXISTS {}.{table} SYNC SETTINGS max_table_size_to_drop = 0, \
                 max_partition_size_to_drop = 0",
                self.database
            );
            self.finish("drop a table of a replay", &sql)?;
        }
        Ok(())
    }

    /// Shadows of replays that were not finished, none of them ever exchanged: a table that was carries no mark.
    pub(super) fn left_over(&self) -> Result<Vec<Left>, ReplayError> {
        let sql = format!(
            "SELECT name FROM system.tables WHERE database = '{}' AND match(name, '^{PREFIX}[0-9a-f]{{16}}$') \
             AND startsWith(comment, '{MARK}') FORMAT TSVRaw",
            self.database
        );
        let answer = self.ask("look for tables of earlier replays", &sql)?;
        let left = |table: &str| Left { id: table[PREFIX.len()..].to_owned(), table: table.to_owned() };
        Ok(answer.lines().map(left).collect())
    }

    pub(super) fn exists(&self, table: &str) -> Result<bool, ReplayError> {
        let sql = format!("EXISTS TABLE {}.{table} FORMAT TSV", self.database);
        Ok(self.ask("look for a table", &sql)?.trim() == "1")
    }

    /// The error of a call that was not made by this.
    pub(super) fn failed(what: &'static str) -> impl FnOnce(CallError) -> ReplayError {
        move |cause| ReplayError::ClickHouse { what, cause }
    }
}

fn parse_numbers<const N: usize>(line: &str) -> Option<[u64; N]> {
    let numbers: Vec<u64> = line.split('\t').map(|cell| cell.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

pub(super) fn unreadable(what: &'static str, line: &str) -> ReplayError {
    OperatorError::Answer { what, line: line.chars().take(200).collect() }.into()
}

pub(super) fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_nothing_else_is_one() {
        let mark = Mark {
            id: "00112233445566aa".to_owned(),
            ranges: Ranges(vec![(1, 2), (0, 0)]),
            keep_old: true,
            comment: "it's \"one\" row".to_owned(),
        };
        assert_eq!(Mark::parse(&mark.text()), Some(mark.clone()));
        assert!(Mark::is_one(&mark.text()));
        assert!(!Mark::is_one(&mark.comment));
        assert_eq!(Mark::parse("Penstock replay {"), None);
        assert_eq!(escape(r"a'b\"), r"a\'b\\");
    }

    #[test]
    fn answers_are_lines_of_numbers() {
        assert_eq!(parse_numbers("1\t2"), Some([1, 2]));
        for line in ["", "1", "1\t2\t3", "1\tx"] {
            assert_eq!(parse_numbers::<2>(line), None, "{line}");
        }
    }
}
