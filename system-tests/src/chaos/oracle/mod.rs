//! The oracle: after a round, when everything is healed, holds what was acknowledged against what is stored.

mod offsets;
mod scan;
pub mod tables;

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_loadgen::Ledger;
use penstock_loadgen::verify::Difference;
use tokio::runtime::Runtime;

use self::offsets::Comparison;
use self::scan::Scans;
use penstock_proto::topics;

use crate::chain::Chain;

/// Records become rows or dead letters; when their number stands still for this long, the rest is missing. Longer than
/// writers wait for offsets that Kafka has left undecided (25 s, twice if partitions move meanwhile).
const STALLED: Duration = Duration::from_secs(90);
/// When their number stands still for this long, it is looked whether a transaction hangs that Kafka has lost track of.
const HANGING: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A record that Kafka has more often than it was sent: after a delivery whose outcome it cannot know librdkafka writes
/// records again. Each has an offset and a row of its own, and counts once in `readings_unique`, which is looked at.
const HARMLESS: [&str; 3] = ["extra-records", "out-of-order", "duplicate-rows"];
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
    /// Records that Kafka has more often than they were sent, of this round.
    pub extra: u64,
}

impl Oracle {
    /// Waits until every record is stored and `quiet` says that nobody is about to store more, then looks at everything.
    ///
    /// # Panics
    /// Where Kafka or ClickHouse cannot be read.
    pub fn check(
        &mut self,
        runtime: &Runtime,
        chain: &Chain,
        quiet: impl Fn() -> bool,
        ledger: &Arc<Ledger>,
        rollups: bool,
    ) -> Verdict {
        let client = scan::client(chain);
        let (found, rows) = self.wait_until_stored(runtime, chain, quiet, &client);
        let mut findings: Vec<String> = found.first.iter().map(ToString::to_string).collect();
        if found.missing + found.wrong > found.first.len() as u64 {
            findings.push(format!("in all {} offsets missing, {} wrong", found.missing, found.wrong));
        }
        findings.append(&mut self.scans.strange);
        let differences = runtime.block_on(chain.verify(ledger, true)).differences;
        let against = |difference: &&Difference| !HARMLESS.contains(&difference.kind());
        findings.extend(differences.first.iter().filter(against).take(SHOWN_MAX).map(ToString::to_string));
        let harmless: u64 = HARMLESS.iter().map(|kind| differences.of(kind)).sum();
        if differences.total() > harmless {
            findings.push(format!("in all {:?}", differences.counts));
        }
        findings.extend(runtime.block_on(tables::doubled(&client)));
        findings.extend(runtime.block_on(tables::latest(&client)));
        if rollups {
            findings.extend(runtime.block_on(tables::rollups(&client)));
        }
        let letters = self.scans.offsets.letters.total();
        let extra = differences.of("extra-records");
        Verdict { findings, records: found.records, rows, letters, collapsed: found.collapsed, extra }
    }

    /// Looks until no record is missing and nobody is about to store more; the last look is at what then is there. Says
    /// how many rows there are, too.
    fn wait_until_stored(
        &mut self,
        runtime: &Runtime,
        chain: &Chain,
        is_quiet: impl Fn() -> bool,
        client: &clickhouse::Client,
    ) -> (Comparison, u64) {
        let (mut missing, mut progress_at) = (u64::MAX, Instant::now());
        let mut healed = false;
        loop {
            // Asked before looking: what writers still hold may yet become rows too many.
            let quiet = is_quiet();
            self.scans.go_on(chain);
            let rows = runtime.block_on(scan::rows(client));
            let found = self.scans.offsets.compare(&rows);
            if found.missing < missing {
                (missing, progress_at) = (found.missing, Instant::now());
            }
            if progress_at.elapsed() >= HANGING && !healed {
                healed = true;
                if end_hanging_transactions(chain) > 0 {
                    progress_at = Instant::now();
                }
            }
            if (found.missing == 0 && quiet) || progress_at.elapsed() >= STALLED {
                return (found, rows.total());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Does what docs/OPERATIONS.md tells an operator to do about dead letters that Kafka does not show: a broker that is
/// restarted while it completes a transaction can leave it hanging. Returns how many there were.
fn end_hanging_transactions(chain: &Chain) -> usize {
    let contract =
        topics::CONTRACTS.iter().find(|contract| contract.name == topics::STORAGE_FAILURES).unwrap();
    let topic = format!("{}{}", chain.prefix, contract.name);
    let aborted = chain.stack.kafka.abort_hanging(&topic, 0..i32::from(contract.partitions)).unwrap();
    if aborted > 0 {
        println!("  {aborted} transactions that Kafka had left hanging in {topic} were ended");
    }
    aborted
}
