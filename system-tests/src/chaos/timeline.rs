//! One round of faults: each target has a thread that does its faults one after the other, so that those of different
//! targets overlap; memory is watched meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::inject::{Seen, inject};
use super::kind::Target;
use super::plan::{Fault, Round};
use super::site::Site;

const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// The most resident memory that was seen, by process.
pub type Peaks = BTreeMap<String, u64>;

/// Does the faults of a round; `done` hears of each when it is over. Returns when all are.
pub fn run(
    site: &Site,
    round: &Round,
    cancel: &CancellationToken,
    done: impl Fn(&Fault, &Seen) + Sync,
) -> Peaks {
    let began = Instant::now();
    let mut targets: BTreeMap<Target, Vec<&Fault>> = BTreeMap::new();
    for fault in &round.faults {
        targets.entry(fault.target()).or_default().push(fault);
    }
    let over = AtomicBool::new(false);
    let peaks = Mutex::new(Peaks::new());
    thread::scope(|scope| {
        scope.spawn(|| watch_memory(site, &over, &peaks));
        let faults: Vec<_> = targets
            .into_values()
            .map(|faults| {
                let done = &done;
                scope.spawn(move || {
                    for fault in faults {
                        let due = began + Duration::from_millis(fault.start_ms);
                        let wait = due.saturating_duration_since(Instant::now());
                        Site::wait(wait, || cancel.is_cancelled(), || Instant::now() >= due);
                        if cancel.is_cancelled() {
                            return;
                        }
                        done(fault, &inject(site, fault, cancel));
                    }
                })
            })
            .collect();
        let ended: Vec<_> = faults.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        if let Some(panic) = ended.into_iter().find_map(Result::err) {
            std::panic::resume_unwind(panic);
        }
    });
    peaks.into_inner()
}

fn watch_memory(site: &Site, over: &AtomicBool, peaks: &Mutex<Peaks>) {
    while !over.load(Ordering::Relaxed) {
        for node in site.nodes() {
            let Some(bytes) = node.try_with(|process| process.resident_bytes()) else { continue };
            let mut peaks = peaks.lock();
            let peak = peaks.entry(node.name.clone()).or_default();
            *peak = bytes.max(*peak);
        }
        thread::sleep(SAMPLE_EVERY);
    }
}
