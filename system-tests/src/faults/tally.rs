//! How many faults of each kind were tried, and of how many an effect was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use parking_lot::Mutex;

use super::hands::Seen;
use super::plan::{Fault, Kind};

/// Faults by kind; every kind is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally<K>(BTreeMap<K, Count>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    tried: u64,
    seen: u64,
}

impl<K: Kind> Tally<K> {
    /// Nothing of any kind yet.
    pub(super) fn new() -> Self {
        Self(K::all().into_iter().map(|kind| (kind, Count::default())).collect())
    }

    /// Kinds of which no fault was seen to work.
    pub fn never(&self) -> Vec<K> {
        self.0.iter().filter(|(_, count)| count.seen == 0).map(|(kind, _)| *kind).collect()
    }

    fn note(&mut self, kind: K, is_seen: bool) {
        let count = self.0.entry(kind).or_default();
        count.tried += 1;
        count.seen += u64::from(is_seen);
    }
}

/// A line each, and one for all.
impl<K: Kind> fmt::Display for Tally<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<36} {:>8} {:>8}", "fault", "tried", "injected")?;
        let (mut tried, mut seen) = (0, 0);
        for (kind, count) in &self.0 {
            writeln!(f, "{:<36} {:>8} {:>8}", kind.to_string(), count.tried, count.seen)?;
            (tried, seen) = (tried + count.tried, seen + count.seen);
        }
        write!(f, "{:<36} {tried:>8} {seen:>8}", "all")
    }
}

/// Counts and prints the faults of a round, from any thread.
pub struct Injecting<'t, K> {
    began: Instant,
    tally: Mutex<&'t mut Tally<K>>,
}

impl<'t, K: Kind> Injecting<'t, K> {
    /// The round begins now.
    pub fn new(tally: &'t mut Tally<K>) -> Self {
        Self { began: Instant::now(), tally: Mutex::new(tally) }
    }

    /// A fault is over.
    pub fn note(&self, fault: &Fault<K>, seen: &Seen) {
        let over_s = self.began.elapsed().as_secs_f64();
        let mut tally = self.tally.lock();
        tally.note(fault.kind, seen.is_ok());
        match seen {
            Ok(seen) => println!("  {over_s:5.1} s {fault}: {seen}"),
            Err(why) => println!("  {over_s:5.1} s {fault}: WITHOUT EFFECT, {why}"),
        }
    }
}
