//! `penstock replay`: rebuilds rows of ClickHouse from Kafka in a shadow table, and exchanges it with `readings`.
//!
//! Rebuilt are exactly the rows with the offsets of a range of each partition; all others stay as they are, so nothing
//! that Kafka does not hold any more is ever dropped. Until the exchange, which is atomic, nothing of `readings` is
//! touched. The shadow carries a mark in its comment, which moves with it: from it alone can be told what an interrupted
//! replay has left, the shadow (which is dropped) or the old table (the next replay finishes what was begun).
//!
//! The way: Kafka's records -> the shadow; months without rows in the range -> the shadow, as hard links; other rows of
//! the other months -> the shadow; what came meanwhile -> the shadow, until that is little; then, with writers held up,
//! the last rows, a check that nothing is missing, the exchange, rollups set back; at last the latest readings.

mod copy;
mod error;
mod gone;
mod lock;
mod outcome;
mod ranges;
mod rebuild;
mod server;
mod swap;

use std::sync::Arc;
use std::time::Instant;

use penstock_service::Config;
use penstock_service::config::StorageGuarantee;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use error::ReplayError;
pub use outcome::{MonthPlan, Outcome, Plan};

use crate::{Cluster, Moment, rfc3339};
use lock::Lock;
use ranges::{Asked, Ranges};
use server::{Mark, READINGS, Server};
use swap::Hold;

/// What to rebuild.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replay {
    /// From the first record that is not older; from the oldest there is where it is `None`.
    pub from: Option<Moment>,
    /// To the first record that is not older, it excluded; to what the writer has committed where it is `None`, and
    /// never further.
    pub to: Option<Moment>,
    /// Keep the old table under another name.
    pub keep_old: bool,
}

/// Where a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The shadow table is there, and empty.
    Created,
    /// It has what Kafka has.
    Rebuilt,
    /// It has the other rows too, but for the latest.
    Copied,
    /// Writers are held up.
    Held,
    /// Tables are exchanged.
    Exchanged,
    /// Writers go on.
    Released,
    /// The latest readings are fed.
    Fed,
}

/// Is told at each stage, from the thread that runs the replay.
pub type Observer<'a> = &'a dyn Fn(Stage);

impl Replay {
    /// What the replay would do. Changes nothing.
    ///
    /// Call it on a thread that may block; `runtime` runs what is asynchronous.
    ///
    /// # Errors
    /// [`ReplayError`] if Kafka or ClickHouse cannot be asked, or the configuration allows no replay.
    pub fn plan(&self, config: &Config, runtime: &Handle) -> Result<Plan, ReplayError> {
        let server = Server::new(&config.clickhouse, runtime, &CancellationToken::new())?;
        self.check(config, &server)?;
        let asked = ranges::ask(&Cluster::new(config), &config.writer.group, self.from, self.to)?;
        self.foresee(&server, &asked)
    }

    /// Rebuilds. Ends early if `cancel` is cancelled, with nothing changed, unless tables are exchanged already.
    ///
    /// Call it on a thread that may block; `runtime`, which must have several threads, runs what is asynchronous.
    ///
    /// # Errors
    /// [`ReplayError`]. `readings` is whole in any case, and the next replay cleans up.
    pub fn run(
        &self,
        config: &Config,
        runtime: &Handle,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Outcome, ReplayError> {
        let server = Arc::new(Server::new(&config.clickhouse, runtime, cancel)?);
        self.check(config, &server)?;
        let owner = format!("process {}", std::process::id());
        let lock = Lock::take(&server, &owner)?;
        let result = self.locked(config, &server, observer);
        if result.is_err() {
            runtime.block_on(server.end(&format!("penstock-replay-{}-", server.id)));
            // Only what was never exchanged: the mark on readings tells.
            if matches!(server.marked(), Ok(found) if found.as_ref().map_or(true, |mark| mark.id != server.id))
            {
                let _ = server.drop_tables(&server.id);
            }
        }
        lock.release(&server, &owner);
        result
    }

    fn check(&self, config: &Config, server: &Server) -> Result<(), ReplayError> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return Err(ReplayError::Backwards { from: rfc3339(from.ms), to: rfc3339(to.ms) });
        }
        if !config.clickhouse.cluster.is_empty() {
            return Err(ReplayError::Cluster(config.clickhouse.cluster.clone()));
        }
        if config.writer.guarantee != StorageGuarantee::ExactlyOnce {
            return Err(ReplayError::NotFenced);
        }
        let database = &server.database;
        let sql = format!("SELECT engine FROM system.databases WHERE name = '{database}' FORMAT TSVRaw");
        let engine = server.ask("look at the database", &sql)?.trim().to_owned();
        if engine == "Atomic" {
            Ok(())
        } else {
            Err(ReplayError::Engine { database: database.clone(), engine })
        }
    }

    fn foresee(&self, server: &Server, asked: &Asked) -> Result<Plan, ReplayError> {
        let Asked { ranges, lows } = asked;
        let bounds: Vec<(u64, u64)> = lows.iter().map(|low| (0, *low)).collect();
        let [not_in_kafka] = server.numbers(
            "count the rows that Kafka does not hold any more",
            &format!(
                "SELECT count() FROM {}.{READINGS} WHERE {} AND received_at >= fromUnixTimestamp64Milli({}, 'UTC') \
                 FORMAT TSV",
                server.database,
                Ranges(bounds).inside(),
                self.from.map_or(0, |from| from.ms)
            ),
        )?;
        let months = copy::months(server, ranges)?;
        let unfinished = server.marked()?.is_ok();
        Ok(Plan::new(self, ranges, &months, not_in_kafka, unfinished))
    }

    fn locked(
        &self,
        config: &Config,
        server: &Arc<Server>,
        observer: Observer<'_>,
    ) -> Result<Outcome, ReplayError> {
        let began = Instant::now();
        let mut outcome = Outcome::default();
        self.clean_up(config, server, &mut outcome, observer)?;
        let cluster = Cluster::new(config);
        let group = &config.writer.group;
        let asked = ranges::ask(&cluster, group, self.from, self.to)?;
        let plan = self.foresee(server, &asked)?;
        outcome.not_in_kafka = plan.not_in_kafka;
        if asked.ranges.offsets() == 0 {
            outcome.rows_kept = plan.rows();
            return Ok(outcome);
        }
        let comment = match server.marked()? {
            Ok(mark) => {
                return Err(ReplayError::Moved(format!("replay {} has just exchanged tables", mark.id)));
            }
            Err(comment) => comment,
        };
        let mut mark = Mark { id: server.id.clone(), ranges: asked.ranges, keep_old: self.keep_old, comment };
        let definition = swap::definition(server)?;
        server.create_shadow(&mark)?;
        observer(Stage::Created);
        let rebuilt = rebuild::rebuild(server, &cluster, group, &mut mark.ranges)?;
        server.mark_shadow(&mark)?;
        observer(Stage::Rebuilt);
        copy::months_of(server, &mark.ranges)?;
        outcome.rows_dropped = gone::note(server, &mark.ranges)?;
        copy::catch_up(server, &mark.ranges)?;
        observer(Stage::Copied);
        let hold = Hold::take(server, &config.clickhouse, &mark.ranges)?;
        let exchanged = {
            observer(Stage::Held);
            swap::exchange(server, &hold, &mark, &definition)
        };
        if let Err(error) = exchanged {
            hold.release(server)?;
            return Err(error);
        }
        observer(Stage::Exchanged);
        outcome.kept_as = finish(config, server, &mark, hold, &mut outcome.held_s, observer)?;
        outcome.records = rebuilt.records;
        outcome.rows_rebuilt = rebuilt.rows;
        outcome.skipped = rebuilt.skipped;
        let [kept] = server.numbers(
            "count the rows that were kept",
            &format!(
                "SELECT count() FROM {}.{READINGS} WHERE {} FORMAT TSV",
                server.database,
                mark.ranges.outside()
            ),
        )?;
        outcome.rows_kept = kept;
        outcome.seconds = began.elapsed().as_secs_f64();
        Ok(outcome)
    }

    /// Finishes what an interrupted replay has exchanged, and drops what one has not.
    fn clean_up(
        &self,
        config: &Config,
        server: &Arc<Server>,
        outcome: &mut Outcome,
        observer: Observer<'_>,
    ) -> Result<(), ReplayError> {
        for left in server.left_over()? {
            eprintln!(
                "{} is left of a replay that was interrupted: it is dropped, and rebuilding starts over",
                left.table
            );
            server.runtime.block_on(server.end(&format!("penstock-replay-{}-", left.id)));
            server.drop_tables(&left.id)?;
            // Only now: without its shadow it can exchange nothing any more.
            Hold::end_of(server, &config.clickhouse, &left.id)?;
            outcome.dropped_left_over += 1;
        }
        if let Ok(mark) = server.marked()? {
            eprintln!(
                "replay {} was interrupted after it had exchanged the tables: it is finished first",
                mark.id
            );
            server.runtime.block_on(server.end(&format!("penstock-replay-{}-", mark.id)));
            Hold::end_of(server, &config.clickhouse, &mark.id)?;
            let hold = Hold::take(server, &config.clickhouse, &mark.ranges)?;
            let mut held_s = 0.0;
            finish(config, server, &mark, hold, &mut held_s, observer)?;
            outcome.finished = Some(mark.id);
        }
        Ok(())
    }
}

/// What is to be done once tables are exchanged; not to be interrupted any more, and may be done again. Returns the name
/// of the old table, if it is kept.
fn finish(
    config: &Config,
    server: &Server,
    mark: &Mark,
    hold: Hold,
    held_s: &mut f64,
    observer: Observer<'_>,
) -> Result<Option<String>, ReplayError> {
    let server = &server.without_cancel();
    let settled = swap::settle(server, &config.clickhouse, mark);
    *held_s = hold.release(server)?.as_secs_f64();
    settled?;
    observer(Stage::Released);
    gone::feed_latest(server, &mark.id, &mark.ranges)?;
    observer(Stage::Fed);
    let old = Server::shadow(&mark.id);
    let mut kept_as = None;
    if mark.keep_old {
        let name = format!("readings_before_replay_{}", mark.id);
        if server.exists(&old)? {
            let sql = format!("RENAME TABLE {0}.{old} TO {0}.{name}", server.database);
            server.finish("keep the old table", &sql)?;
        }
        kept_as = Some(name);
    }
    server.drop_tables(&mark.id)?;
    server.unmark(mark)?;
    Ok(kept_as)
}
