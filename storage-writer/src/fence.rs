//! Takes Kafka partitions over from whoever inserted their rows before, so that nothing sent earlier can store a row
//! any more.
//!
//! The steps, and why nothing slips between them: claim (every insert that ClickHouse starts from now on under an
//! older claim ends with an error); list the inserts under way (whatever is not on this list has not been started, and
//! will meet the claim); kill them; wait until none of them can store anything. What is stored then stays as it is
//! until the new owner inserts, and can be asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use penstock_service::config::ClickHouse;
use tokio::time::Instant;

use crate::claims::{Claim, Claimed};
use crate::clickhouse::{CallError, Client};

/// Begins the `log_comment` of every insert: how running inserts are recognised.
const COMMENT: &str = "penstock-insert";
/// What the error of a fenced insert says.
pub(crate) const FENCED: &str = "penstock: fenced by a greater claim";

/// Pauses between looks at inserts that are ending.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// A killed insert that has not received its rows for this long receives none, see [`Running::is_harmless`].
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// How a takeover ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// The claim under which rows may be inserted now.
    pub claim: Claim,
    /// Partitions that it holds for; another writer has claimed the others meanwhile.
    pub held: Vec<u16>,
    /// Inserts that were killed.
    pub killed: usize,
}

/// Why a takeover did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeOverError {
    /// ClickHouse could not be asked or told. The takeover may be tried again from its start.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Nobody may insert for now, such as while a replay exchanges tables.
    #[error("inserts are held up for {name:?}, for {left_ms} ms at most")]
    Held {
        /// What the hold is for.
        name: String,
        /// How long it lasts if nobody ends it, in milliseconds.
        left_ms: u64,
    },
}

/// Claims partitions in one ClickHouse database. Clones are the same owner.
#[derive(Clone, Debug)]
pub struct Fence {
    client: Client,
    database: String,
    /// For people.
    owner: String,
    /// Tells the claims of this process from those of others.
    tag: u64,
}

impl Fence {
    /// An owner of claims, unlike every other. `owner` is for people: who and where.
    pub fn new(client: Client, config: &ClickHouse, owner: impl Into<String>) -> Self {
        let (tag, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self { client, database: config.database.clone(), owner: owner.into(), tag }
    }

    /// Makes sure that no insert of these partitions that was sent before, by whomever, can store a row from now on,
    /// and claims them. What was believed to be not stored must be asked for anew after it.
    ///
    /// May take as long as ClickHouse waits for a body that does not come (30 s) if a writer was stopped while it sent
    /// a small one.
    ///
    /// # Errors
    /// [`TakeOverError`]; then nothing may be inserted, and the takeover starts again.
    pub async fn take_over(&self, partitions: &[u16]) -> Result<TakenOver, TakeOverError> {
        self.take_over_but(partitions, "").await
    }

    /// The same for whoever has set the hold `own` and is not held up by it. Whoever claims partitions for work that
    /// needs the table to stand still takes them over by this, and inserts nothing under the claim.
    ///
    /// `own` must have been set before, and must not end before the work does. That order is what makes it safe: a
    /// writer looks for holds after its claim is written, and here the claim is written after the hold. So of the claims
    /// of a writer those below this one are fenced off, and those above it find the hold, and insert nothing. They are
    /// the greatest all the same, so [`Self::holds_all`] need not be true while the hold lasts: a writer whose insert
    /// was fenced claims again and again until it ends.
    ///
    /// # Errors
    /// [`TakeOverError`]; [`TakeOverError::Held`] where somebody else holds inserts up too.
    pub async fn take_over_under(&self, partitions: &[u16], own: &str) -> Result<TakenOver, TakeOverError> {
        let taken = self.take_over_but(partitions, own).await?;
        // What a writer with a greater claim sent before is none of its: it has found the hold. Inserts of partitions
        // that are claimed anew by now belong to older claims, and have to be ended as well.
        let missed: Vec<u16> =
            partitions.iter().copied().filter(|partition| !taken.held.contains(partition)).collect();
        let more = if missed.is_empty() { 0 } else { self.end_inserts(&missed).await? };
        Ok(TakenOver { killed: taken.killed + more, ..taken })
    }

    async fn take_over_but(&self, partitions: &[u16], own: &str) -> Result<TakenOver, TakeOverError> {
        let greatest = self.greatest(partitions).await?.into_values().max().unwrap_or_default();
        let claim = Claim::above(greatest, self.tag);
        self.claim(partitions, claim).await?;
        if let Some(hold) = self.hold(own).await? {
            return Err(hold);
        }
        // A writer that claimed at the same moment may have the greater number.
        let now = self.greatest(partitions).await?;
        let held: Vec<u16> =
            partitions.iter().copied().filter(|partition| now.get(partition) == Some(&claim)).collect();
        let killed = if held.is_empty() { 0 } else { self.end_inserts(&held).await? };
        Ok(TakenOver { claim, held, killed })
    }

    async fn greatest(&self, partitions: &[u16]) -> Result<BTreeMap<u16, Claim>, CallError> {
        let sql = format!(
            "SELECT kafka_partition, toString(max(claim)) FROM {}.writer_claims WHERE kafka_partition IN ({}) \
             GROUP BY kafka_partition FORMAT TSV",
            self.database,
            list(partitions)
        );
        let answer = self.client.query(&sql).await?;
        let parse = |line: &str| {
            let (partition, claim) = line.split_once('\t')?;
            Some((partition.parse().ok()?, Claim::from_number(claim.parse().ok()?)))
        };
        answer.lines().map(|line| parse(line).ok_or_else(|| unreadable("claims", line))).collect()
    }

    async fn claim(&self, partitions: &[u16], claim: Claim) -> Result<(), CallError> {
        let mut rows = String::new();
        for partition in partitions {
            // Writing to a String cannot fail.
            let _ =
                write!(rows, "({partition}, toUInt128('{}'), '{}'),", claim.number(), escape(&self.owner));
        }
        let sql = format!(
            "INSERT INTO {}.writer_claims (kafka_partition, claim, owner) SETTINGS async_insert = 0 VALUES {}",
            self.database,
            rows.trim_end_matches(',')
        );
        self.client.query(&sql).await.map(drop)
    }

    async fn hold(&self, own: &str) -> Result<Option<TakeOverError>, CallError> {
        let sql = format!(
            "SELECT name, toInt64(toUnixTimestamp64Milli(argMax(until, set_at)) - toUnixTimestamp64Milli(now64(3))) AS \
             left FROM {}.writer_holds WHERE name != '{}' GROUP BY name HAVING left > 0 ORDER BY left DESC LIMIT 1 \
             FORMAT TSVRaw",
            self.database,
            escape(own)
        );
        let answer = self.client.query(&sql).await?;
        let Some(line) = answer.lines().next() else { return Ok(None) };
        let (name, left) = line.split_once('\t').ok_or_else(|| unreadable("holds", line))?;
        let left_ms = left.parse().map_err(|_| unreadable("holds", line))?;
        Ok(Some(TakeOverError::Held { name: name.to_owned(), left_ms }))
    }

    /// Kills the inserts of these partitions that are under way, whoever sent them, and waits until none of them can
    /// store anything.
    async fn end_inserts(&self, partitions: &[u16]) -> Result<usize, CallError> {
        let mut running: BTreeMap<String, Running> = BTreeMap::new();
        for insert in self.running(&self.inserts_of(partitions)).await? {
            running.insert(insert.query_id.clone(), insert);
        }
        let killed = running.len();
        if killed == 0 {
            return Ok(0);
        }
        let ids: Vec<String> = running.keys().map(|id| format!("'{}'", escape(id))).collect();
        let ids = format!("query_id IN ({})", ids.join(", "));
        tracing::info!(inserts = killed, "killing inserts of partitions that are taken over");
        self.client.query(&format!("KILL QUERY WHERE {ids} ASYNC FORMAT TSV")).await?;
        let killed_at = Instant::now();
        let mut pause = LOOK_MIN;
        loop {
            let left = self.running(&ids).await?;
            let stuck = killed_at.elapsed() >= STUCK_AFTER;
            if left.iter().all(|insert| stuck && insert.is_harmless()) {
                return Ok(killed);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// The condition for running inserts of these partitions. One that a user gave another `log_comment` cannot be
    /// recognised; Penstock's inserts carry theirs in the request itself.
    fn inserts_of(&self, partitions: &[u16]) -> String {
        let numbers: Vec<String> = partitions.iter().map(|partition| format!("'{partition}'")).collect();
        format!(
            "startsWith(Settings['log_comment'], '{COMMENT} {} ') \
             AND hasAny(splitByChar(',', splitByChar(' ', Settings['log_comment'])[4]), [{}])",
            self.database,
            numbers.join(", ")
        )
    }

    async fn running(&self, condition: &str) -> Result<Vec<Running>, CallError> {
        let sql = format!(
            "SELECT query_id, is_cancelled, read_rows, splitByChar(' ', Settings['log_comment'])[3] \
             FROM system.processes WHERE {condition} FORMAT TSV"
        );
        let answer = self.client.query(&sql).await?;
        answer.lines().map(|line| Running::parse(line).ok_or_else(|| unreadable("processes", line))).collect()
    }

    /// Says that nobody may insert for `millis`; 0 ends the hold.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_hold(&self, name: &str, millis: u64) -> Result<(), CallError> {
        let sql = format!(
            "INSERT INTO {}.writer_holds (name, until) SETTINGS async_insert = 0 \
             SELECT '{}', now64(3, 'UTC') + toIntervalMillisecond({millis})",
            self.database,
            escape(name)
        );
        self.client.query(&sql).await.map(drop)
    }

    /// How long a hold lasts if nobody ends it, in milliseconds by ClickHouse's clock; 0 if it is over or was never set.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn hold_left_ms(&self, name: &str) -> Result<u64, CallError> {
        let sql = format!(
            "SELECT greatest(0, toInt64(toUnixTimestamp64Milli(argMax(until, set_at)) - \
             toUnixTimestamp64Milli(now64(3)))) FROM {}.writer_holds WHERE name = '{}' FORMAT TSVRaw",
            self.database,
            escape(name)
        );
        let answer = self.client.query(&sql).await?;
        answer.trim().parse().map_err(|_| unreadable("holds", &answer))
    }

    /// Whose the claims on these partitions are, whoever made them.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn holds_all(&self, partitions: &[u16], claim: Claim) -> Result<bool, CallError> {
        let greatest = self.greatest(partitions).await?;
        Ok(partitions.iter().all(|partition| greatest.get(partition) == Some(&claim)))
    }
}

/// An insert under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    query_id: String,
    cancelled: bool,
    read_rows: u64,
    /// Rows of its block.
    rows: u64,
}

impl Running {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let query_id = fields.next()?.to_owned();
        let cancelled = fields.next()? == "1";
        let read_rows = fields.next()?.parse().ok()?;
        let rows = fields.next()?.parse().ok()?;
        Some(Self { query_id, cancelled, read_rows, rows })
    }

    /// Whether it can store nothing although it is still there: it was killed before it had read its block, which it
    /// waits for, and a pipeline that was cancelled passes no block on. (`read_rows` also counts the claims that its
    /// check read, so this is certain only for blocks larger than that; with others one waits until they are gone.)
    const fn is_harmless(&self) -> bool {
        self.cancelled && self.read_rows < self.rows
    }
}

/// What a guarded insert adds to its statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// An SQL expression that is true, or throws if a greater claim is there when the statement starts.
    pub condition: String,
    /// The setting `log_comment`, by which a takeover recognises the insert.
    pub log_comment: String,
}

impl Guard {
    /// The guard of an insert of `rows` rows into `database` under these claims.
    pub fn new(database: &str, claimed: &Claimed, rows: usize) -> Self {
        let mut greater = String::new();
        for (claim, partitions) in claimed.by_claim() {
            let or = if greater.is_empty() { "" } else { " OR " };
            // Writing to a String cannot fail.
            let _ = write!(
                greater,
                "{or}kafka_partition IN ({}) AND claim > toUInt128('{}')",
                list(&partitions),
                claim.number()
            );
        }
        let condition = format!(
            "(SELECT throwIf(count() > 0, '{FENCED}') FROM {database}.writer_claims WHERE {greater}) = 0"
        );
        let partitions: Vec<u16> = claimed.partitions().collect();
        let log_comment = format!("{COMMENT} {database} {rows} {}", list(&partitions).replace(' ', ""));
        Self { condition, log_comment }
    }
}

fn list(partitions: &[u16]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn unreadable(what: &str, line: &str) -> CallError {
    let line: String = line.chars().take(200).collect();
    CallError::Broken(format!("asked for {what}, it said {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_insert_is_harmless_only_before_it_has_its_rows() {
        let parse = |line: &str| Running::parse(line).unwrap();
        assert!(parse("q\t1\t48\t85000").is_harmless());
        assert!(!parse("q\t0\t48\t85000").is_harmless(), "not killed");
        assert!(!parse("q\t1\t85048\t85000").is_harmless(), "it has its rows");
        assert!(!parse("q\t1\t48\t20").is_harmless(), "not to be told");
        assert_eq!(Running::parse("q\t1\tx\t1"), None);
    }

    #[test]
    fn a_guard_names_every_partition_under_its_claim() {
        let (one, two) = (Claim::from_number(1), Claim::from_number(2));
        let guard = Guard::new("db", &Claimed::new(vec![(7, one), (5, two), (6, one)]), 10);
        assert!(
            guard.condition.contains(
                "kafka_partition IN (6, 7) AND claim > toUInt128('1') OR kafka_partition IN (5) AND claim > \
                 toUInt128('2')"
            ),
            "{}",
            guard.condition
        );
        assert_eq!(guard.log_comment, "penstock-insert db 10 5,6,7");
    }
}
