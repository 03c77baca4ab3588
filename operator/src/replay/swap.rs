//! The short time in which nobody else stores rows: what came last is copied, it is made sure that nothing is missing,
//! tables are exchanged, rollups are set back.
//!
//! Writers are held up first and fenced off then, see [`Fence::take_over_under`]; the hold is renewed as long as it is
//! needed and must never have lapsed. A process that was stopped between its last look and the exchange may exchange
//! after its hold has ended: then writers have stored rows in the old table meanwhile. So what the new table lacks is
//! looked for once more after the exchange, by whoever finishes the replay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_service::config::ClickHouse;
use penstock_storage_writer::fence::{Fence, TakeOverError};
use penstock_storage_writer::rollups::Rollups;
use tokio::task::JoinHandle;

use super::ReplayError;
use super::copy;
use super::gone;
use super::ranges::Ranges;
use super::server::{Mark, READINGS, Server};

/// A hold ends by itself after this.
const HOLD: Duration = Duration::from_secs(60);
const RENEW: Duration = Duration::from_secs(15);
/// What must be left of a hold when tables are exchanged.
const LEFT: Duration = Duration::from_secs(20);
/// How long an exchange may wait for statements that read the tables.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
const HELD_BY_OTHER_PAUSE: Duration = Duration::from_millis(500);
/// How often it is tried to hold writers up while somebody else does.
const HOLD_ATTEMPTS: u32 = 20;

/// Writers are held up until this is released, or for [`HOLD`] after it was lost.
pub(super) struct Hold {
    fence: Fence,
    name: String,
    /// When the last renewal was sent; `None` once one came too late.
    renewed: Arc<Mutex<Option<Instant>>>,
    renewing: JoinHandle<()>,
    began: Instant,
}

impl Hold {
    /// Holds writers up and fences off whatever they have sent.
    pub(super) fn take(server: &Server, config: &ClickHouse, ranges: &Ranges) -> Result<Self, ReplayError> {
        let fence = Fence::new(server.client.clone(), config, format!("penstock replay {}", server.id));
        let name = Self::name(&server.id);
        let partitions: Vec<u16> =
            (0..ranges.0.len()).filter_map(|index| u16::try_from(index).ok()).collect();
        let began = Instant::now();
        server
            .runtime
            .block_on(fence.set_hold(&name, millis(HOLD)))
            .map_err(Server::failed("hold writers up"))?;
        let renewed = Arc::new(Mutex::new(Some(began)));
        let renewing = server.runtime.spawn(renew(fence.clone(), name.clone(), Arc::clone(&renewed)));
        let hold = Self { fence, name, renewed, renewing, began };
        let mut attempt = 1;
        loop {
            match server.runtime.block_on(hold.fence.take_over_under(&partitions, &hold.name)) {
                Ok(_) => return Ok(hold),
                Err(TakeOverError::Held { .. } | TakeOverError::Call(_)) if attempt < HOLD_ATTEMPTS => {
                    attempt += 1;
                    std::thread::sleep(HELD_BY_OTHER_PAUSE);
                }
                Err(error) => {
                    let _ = hold.release(server);
                    return Err(ReplayError::Hold(error));
                }
            }
        }
    }

    /// Ends the hold of a replay that is over.
    pub(super) fn end_of(server: &Server, config: &ClickHouse, id: &str) -> Result<(), ReplayError> {
        let fence = Fence::new(server.client.clone(), config, format!("penstock replay {}", server.id));
        let ended = server.runtime.block_on(fence.set_hold(&Self::name(id), 0));
        ended.map_err(Server::failed("end the hold of an interrupted replay"))
    }

    fn name(id: &str) -> String {
        format!("replay-{id}")
    }

    /// Whether writers have been held up without a break until now, and will be for a while.
    fn check(&self, server: &Server) -> Result<(), ReplayError> {
        let left = server
            .runtime
            .block_on(self.fence.hold_left_ms(&self.name))
            .map_err(Server::failed("look whether writers are held up"))?;
        let unbroken = self.renewed.lock().is_some_and(|renewed| renewed.elapsed() + LEFT < HOLD);
        if unbroken && u128::from(left) >= LEFT.as_millis() { Ok(()) } else { Err(ReplayError::HoldLost) }
    }

    /// Lets writers go on. Returns for how long they were held up.
    pub(super) fn release(self, server: &Server) -> Result<Duration, ReplayError> {
        self.renewing.abort();
        server
            .runtime
            .block_on(async {
                let mut released = self.fence.set_hold(&self.name, 0).await;
                for _ in 0..5 {
                    if released.is_ok() {
                        break;
                    }
                    tokio::time::sleep(HELD_BY_OTHER_PAUSE).await;
                    released = self.fence.set_hold(&self.name, 0).await;
                }
                released
            })
            .map_err(Server::failed("let writers go on"))?;
        Ok(self.began.elapsed())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Renews a hold before it ends. One that may have ended already is not taken for the same.
async fn renew(fence: Fence, name: String, renewed: Arc<Mutex<Option<Instant>>>) {
    loop {
        tokio::time::sleep(RENEW).await;
        let now = Instant::now();
        let is_set = tokio::time::timeout(RENEW, fence.set_hold(&name, millis(HOLD))).await;
        if !matches!(is_set, Ok(Ok(()))) {
            continue;
        }
        let mut renewed = renewed.lock();
        // The answer came before the last one ended: there was no moment between them.
        let in_time = renewed.is_some_and(|last| last.elapsed() < HOLD);
        *renewed = in_time.then_some(now);
        if !in_time {
            return;
        }
    }
}

/// Copies what came last, and exchanges the tables. Nothing has changed if this fails, unless the mark on `readings` says
/// otherwise.
pub(super) fn exchange(server: &Server, hold: &Hold, mark: &Mark, before: &str) -> Result<(), ReplayError> {
    let (database, shadow, ranges) = (&server.database, Server::shadow(&mark.id), &mark.ranges);
    copy::round(server, READINGS, &shadow, ranges)?;
    let missing = copy::lost(server, READINGS, &shadow, ranges)?;
    if missing > 0 {
        return Err(ReplayError::Missing { missing, table: shadow });
    }
    if definition(server)? != before {
        return Err(ReplayError::Moved(
            "the definition of readings was changed, or its rows were".to_owned(),
        ));
    }
    server.go_on()?;
    hold.check(server)?;
    let id = server.statement_id();
    let timeout = EXCHANGE_TIMEOUT.as_secs().to_string();
    let settings = [("lock_acquire_timeout", timeout.as_str()), ("max_execution_time", timeout.as_str())];
    let sql = format!("EXCHANGE TABLES {database}.{READINGS} AND {database}.{shadow}");
    let ended = server.runtime.block_on(server.client.execute(&sql, &settings, &id, 2 * EXCHANGE_TIMEOUT));
    let Err(cause) = ended else { return Ok(()) };
    // Whatever was said or not said: the mark has moved with the table, or not.
    server.runtime.block_on(server.ended(&id));
    match server.marked()? {
        Ok(found) if found.id == mark.id => Ok(()),
        _ => Err(ReplayError::ClickHouse { what: "exchange the tables", cause }),
    }
}

/// What must not change while rows are copied: columns and settings of `readings`, and how many mutations it has seen.
pub(super) fn definition(server: &Server) -> Result<String, ReplayError> {
    let sql = format!(
        "SELECT (SELECT count() FROM system.mutations WHERE database = '{0}' AND table = '{READINGS}'), \
         (SELECT countIf(NOT is_done) FROM system.mutations WHERE database = '{0}' AND table = '{READINGS}'), \
         (SELECT engine_full FROM system.tables WHERE database = '{0}' AND name = '{READINGS}'), \
         (SELECT groupArray((name, type, default_expression)) FROM system.columns WHERE database = '{0}' \
         AND table = '{READINGS}') FORMAT TSV",
        server.database
    );
    server.ask("look at the definition of readings", &sql)
}

/// What is left to be done while writers are held up, once tables are exchanged. May be done again.
pub(super) fn settle(server: &Server, config: &ClickHouse, mark: &Mark) -> Result<(), ReplayError> {
    let (old, ranges) = (Server::shadow(&mark.id), &mark.ranges);
    if server.exists(&old)? {
        copy::round(server, &old, READINGS, ranges)?;
    }
    let back: Vec<(u16, u64)> = ranges
        .filled()
        .filter_map(|(partition, range)| Some((u16::try_from(partition).ok()?, range.start)))
        .collect();
    if back.is_empty() {
        return Ok(());
    }
    let rollups = Rollups::new(server.client.clone(), config);
    let version =
        server.runtime.block_on(rollups.set_back(&back)).map_err(Server::failed("set the rollups back"))?;
    if gone::count(server, &mark.id)? > 0 {
        server
            .runtime
            .block_on(rollups.remove(&Server::gone(&mark.id), version))
            .map_err(Server::failed("take dropped rows out of the rollups"))?;
    }
    Ok(())
}
