//! One round of faults: each target has a thread that does its faults one after the other, so that those of different
//! targets overlap; memory is watched meanwhile.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::plan::{Fault, Kind};
use crate::wait::comes_to_hold;

const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// The most resident memory that was seen, by process.
pub type Peaks = BTreeMap<String, u64>;

/// Does the faults of a round with `inject`. Returns when all are over.
pub fn run<K: Kind>(faults: &[Fault<K>], cancel: &CancellationToken, inject: impl Fn(&Fault<K>) + Sync) {
    let began = Instant::now();
    let mut targets: BTreeMap<K::Target, Vec<&Fault<K>>> = BTreeMap::new();
    for fault in faults {
        targets.entry(fault.target()).or_default().push(fault);
    }
    let inject = &inject;
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
                    inject(fault);
                }
            });
        }
    });
}

/// Does `work` and watches the memory of every process meanwhile.
pub fn watch_memory<T>(nodes: &[&Node], work: impl FnOnce() -> T) -> (Peaks, T) {
    let over = CancellationToken::new();
    let peaks = Mutex::new(Peaks::new());
    let result = thread::scope(|scope| {
        // Ends the watch, if `work` panics, too.
        let _over = over.clone().drop_guard();
        scope.spawn(|| {
            while !over.is_cancelled() {
                nodes.iter().for_each(|node| look(node, &peaks));
                thread::sleep(SAMPLE_EVERY);
            }
        });
        work()
    });
    (peaks.into_inner(), result)
}

/// Processes that have had more than `bytes_max`, a line each.
pub fn over_budget(peaks: &Peaks, bytes_max: u64) -> Vec<String> {
    let over = peaks.iter().filter(|(_, bytes)| **bytes > bytes_max);
    over.map(|(name, bytes)| format!("{name} had {} MB of memory, {} are allowed", mb(*bytes), mb(bytes_max)))
        .collect()
}

/// The peaks in words.
pub fn in_mb(peaks: &Peaks) -> String {
    let memory: Vec<String> = peaks.iter().map(|(name, bytes)| format!("{name} {}", mb(*bytes))).collect();
    memory.join(", ")
}

const fn mb(bytes: u64) -> u64 {
    bytes / 1_000_000
}

fn look(node: &Node, peaks: &Mutex<Peaks>) {
    // Whoever is at the process just now gives it back before long.
    let Some(bytes) = node.try_with(|process| process.resident_bytes()) else { return };
    let mut peaks = peaks.lock();
    let peak = peaks.entry(node.name.clone()).or_default();
    *peak = bytes.max(*peak);
}
