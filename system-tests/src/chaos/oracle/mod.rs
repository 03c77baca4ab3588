//! The oracle: after a round, when everything is healed, holds what was acknowledged against what is stored.

mod offsets;
mod scan;
mod tables;

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_loadgen::Ledger;
use tokio::runtime::Runtime;

use self::offsets::Comparison;
use self::scan::Scans;
use super::site::Site;

/// Records become rows or dead letters; when their number stands still for this long, the rest is missing.
const STALLED: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Differences between ledger and stores that are shown.
const SHOWN_MAX: usize = 20;

/// What remains known from round to round.
#[derive(Debug, Default)]
pub struct Oracle {
    scans: Scans,
}

/// What a round's check came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Everything that must not be, a line each.
    pub findings: Vec<String>,
    /// Records, since the beginning.
    pub records: u64,
    /// Rows, since the beginning.
    pub rows: u64,
    /// Dead letters, since the beginning.
    pub letters: u64,
    /// Records without a row of their own because a merge kept another one of the same reading.
    pub collapsed: u64,
}

impl Oracle {
    /// Waits until every record is stored, then looks at everything.
    ///
    /// # Panics
    /// Where Kafka or ClickHouse cannot be read.
    pub fn check(&mut self, runtime: &Runtime, site: &Site, ledger: &Arc<Ledger>, rollups: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let client = scan::client(&site.chain);
        let found = self.wait_until_stored(runtime, site, &client, &mut verdict);
        verdict.findings.extend(found.first.iter().map(ToString::to_string));
        if found.missing + found.wrong > found.first.len() as u64 {
            verdict.findings.push(format!("in all {} offsets missing, {} wrong", found.missing, found.wrong));
        }
        (verdict.records, verdict.collapsed) = (found.records, found.collapsed);
        verdict.letters = self.scans.offsets.letters.total();
        verdict.findings.append(&mut self.scans.strange);
        let verification = runtime.block_on(site.chain.verify(ledger, true));
        let differences = &verification.differences;
        verdict.findings.extend(differences.first.iter().take(SHOWN_MAX).map(ToString::to_string));
        if differences.total() > SHOWN_MAX as u64 {
            verdict.findings.push(format!("in all {:?}", differences.counts));
        }
        verdict.findings.extend(runtime.block_on(tables::latest(&client)));
        if rollups {
            verdict.findings.extend(runtime.block_on(tables::rollups(&client)));
        }
        verdict
    }

    /// Waits until no record is missing and no writer holds rows; the last look is at what then is there.
    fn wait_until_stored(
        &mut self,
        runtime: &Runtime,
        site: &Site,
        client: &clickhouse::Client,
        verdict: &mut Verdict,
    ) -> Comparison {
        let (mut missing, mut progress_at, mut quiet) = (u64::MAX, Instant::now(), false);
        loop {
            self.scans.go_on(&site.chain);
            let rows = runtime.block_on(scan::rows(client));
            let found = self.scans.offsets.compare(&rows);
            verdict.rows = rows.total();
            if found.missing < missing {
                (missing, progress_at) = (found.missing, Instant::now());
            }
            if (found.missing == 0 && quiet) || progress_at.elapsed() >= STALLED {
                return found;
            }
            // What writers still hold may yet become rows too many.
            quiet = site.writers.iter().all(|writer| {
                let held = writer.with(|process| process.metric("penstock_writer_buffered_bytes", ""));
                held.unwrap_or(0.0) == 0.0
            });
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
