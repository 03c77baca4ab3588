//! One replay of a database at a time: whoever is at work says so every few seconds in the table `replay_runs`, which is
//! also a record of who replayed what.
//!
//! This is a courtesy, not what safety rests on: tables and holds of different replays have different names, and none
//! goes on while another holds writers up.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::ReplayError;
use super::server::{Server, escape};

const BEAT: Duration = Duration::from_secs(2);
/// A replay that has not said anything for so long is over.
const SILENT_S: i64 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// Held as long as a replay is at work.
pub(super) struct Lock {
    beating: JoinHandle<()>,
}

impl Lock {
    /// Waits until a replay that was killed is silent for long enough.
    pub(super) fn take(server: &Server, owner: &str) -> Result<Self, ReplayError> {
        let database = &server.database;
        server.finish(
            "create the table of replays",
            &format!(
                "CREATE TABLE IF NOT EXISTS {database}.replay_runs (id String COMMENT 'Of a replay', \
                 owner String COMMENT 'Who runs it, for people', \
                 beat_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When it was at work', \
                 is_over UInt8 COMMENT 'Whether it has ended by itself') \
                 ENGINE = ReplacingMergeTree(beat_at) ORDER BY id COMMENT 'Which replays are and were at work'"
            ),
        )?;
        let mut seen: Option<(String, i64)> = None;
        while let Some((owner, at, silent_ms)) = other(server)? {
            if silent_ms >= SILENT_S * 1_000 {
                break;
            }
            if seen.as_ref().is_some_and(|(other, then)| *other != owner || *then != at) {
                return Err(ReplayError::Another { owner, seconds: silent_ms / 1_000 });
            }
            if seen.is_none() {
                eprintln!("a replay by {owner} was at work a moment ago: waiting for whether it still is");
            }
            seen = Some((owner, at));
            server.go_on()?;
            std::thread::sleep(PAUSE);
        }
        let beat = beat(server, owner, false);
        server.finish("say that a replay is at work", &beat)?;
        // Who began at the same moment has said so too by now.
        if let Some((other, _, silent_ms)) = other(server)?
            && silent_ms < SILENT_S * 1_000
        {
            server.finish("say that a replay has ended", &self::beat(server, owner, true))?;
            return Err(ReplayError::Another { owner: other, seconds: silent_ms / 1_000 });
        }
        let client = server.client.clone();
        let beating = server.runtime.spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                let _ = client.query(&beat).await;
            }
        });
        Ok(Self { beating })
    }

    /// The replay has ended.
    pub(super) fn release(self, server: &Server, owner: &str) {
        self.beating.abort();
        // If this does not work, the next replay waits a little.
        let _ = server.finish("say that a replay has ended", &beat(server, owner, true));
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

fn beat(server: &Server, owner: &str, is_over: bool) -> String {
    format!(
        "INSERT INTO {}.replay_runs (id, owner, is_over) SETTINGS async_insert = 0 VALUES ('{}', '{}', {})",
        server.database,
        server.id,
        escape(owner),
        u8::from(is_over)
    )
}

/// The other replay that was at work last: who, when, and how many milliseconds ago.
fn other(server: &Server) -> Result<Option<(String, i64, i64)>, ReplayError> {
    const WHAT: &str = "look for other replays";
    let sql = format!(
        "SELECT owner, toUnixTimestamp64Milli(beat_at), toUnixTimestamp64Milli(now64(3)) - \
         toUnixTimestamp64Milli(beat_at) FROM {}.replay_runs FINAL WHERE id != '{}' AND NOT is_over \
         ORDER BY beat_at DESC LIMIT 1 FORMAT TSVRaw",
        server.database, server.id
    );
    let answer = server.ask(WHAT, &sql)?;
    let Some(line) = answer.lines().next() else { return Ok(None) };
    let parse = || {
        let mut cells = line.rsplitn(3, '\t');
        let (silent, at) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
        Some((cells.next()?.to_owned(), at, silent))
    };
    parse().map(Some).ok_or_else(|| super::server::unreadable(WHAT, line))
}
