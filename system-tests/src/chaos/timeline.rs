//! One round of faults: each target has a thread that does its faults one after the other, so that those of different
//! targets overlap; memory is watched meanwhile.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::inject::{Seen, inject};
use super::kind::Target;
use super::plan::{Fault, Round};
use super::site::{Node, Site};
use crate::wait::comes_to_hold;

const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// The most resident memory that was seen, by process.
pub type Peaks = BTreeMap<String, u64>;

/// Does the faults of a round; `done` hears of each when it is over. Returns when all are.
pub fn run(site: &Site, round: &Round, cancel: &CancellationToken, done: impl Fn(&Fault, &Seen) + Sync) {
    let began = Instant::now();
    let mut targets: BTreeMap<Target, Vec<&Fault>> = BTreeMap::new();
    for fault in &round.faults {
        targets.entry(fault.target()).or_default().push(fault);
    }
    let done = &done;
    thread::scope(|scope| {
        for faults in targets.into_values() {
            scope.spawn(move || {
                for fault in faults {
                    let due = began + Duration::from_millis(fault.start_ms);
                    let wait = due.saturating_duration_since(Instant::now());
                    comes_to_hold(wait, || cancel.is_cancelled(), || Instant::now() >= due);
                    if cancel.is_cancelled() {
                        return;
                    }
                    done(fault, &inject(site, fault, cancel));
                }
            });
        }
    });
}

/// Does `work` and watches the memory of every process meanwhile.
pub fn watch_memory<T>(site: &Site, work: impl FnOnce() -> T) -> (Peaks, T) {
    let over = CancellationToken::new();
    let peaks = Mutex::new(Peaks::new());
    let result = thread::scope(|scope| {
        // Ends the watch, if `work` panics, too.
        let _over = over.clone().drop_guard();
        scope.spawn(|| {
            while !over.is_cancelled() {
                site.nodes().for_each(|node| look(node, &peaks));
                thread::sleep(SAMPLE_EVERY);
            }
        });
        work()
    });
    (peaks.into_inner(), result)
}

fn look(node: &Node, peaks: &Mutex<Peaks>) {
    // Whoever is at the process just now gives it back before long.
    let Some(bytes) = node.try_with(|process| process.resident_bytes()) else { return };
    let mut peaks = peaks.lock();
    let peak = peaks.entry(node.name.clone()).or_default();
    *peak = bytes.max(*peak);
}
