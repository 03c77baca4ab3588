//! The alerts that fire: for telling the Alertmanager again, and for telling people when a silence has ended. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::Part;
use crate::notice::Notice;

/// What an entry costs besides the alert itself.
const OVERHEAD_BYTES: usize = 400;
/// Episodes held back by silences that are remembered. Of more than these the resolution is notified although the
/// beginning was not.
const MUTED_MAX: usize = 100_000;

#[derive(Debug)]
struct Entry {
    notice: Arc<Notice>,
    /// The receiver knows of it.
    told: bool,
    refresh_at: Instant,
}

/// Firing alerts by id, within a budget of bytes.
#[derive(Debug)]
pub struct Active {
    entries: HashMap<String, Entry>,
    /// When entries that the receiver knows are to be told again.
    refresh: BTreeSet<(Instant, String)>,
    /// Episodes of which the receiver was told nothing because of a silence.
    muted: BTreeSet<String>,
    every: Option<Duration>,
    bytes: usize,
    bytes_max: usize,
    dropped: u64,
}

impl Active {
    /// Nothing fires. With `every`, alerts are to be told again so often.
    pub fn new(every: Option<Duration>, bytes_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            refresh: BTreeSet::new(),
            muted: BTreeSet::new(),
            every,
            bytes: 0,
            bytes_max,
            dropped: 0,
        }
    }

    /// It fires, or fires still. What is known of it is kept; but whether a silence holds it back is decided anew when
    /// `notice` is about to be sent.
    pub fn fires(&mut self, notice: &Arc<Notice>, now: Instant) {
        self.muted.remove(&notice.alert.id);
        let told = self.take_out(&notice.alert.id).is_some_and(|entry| entry.told);
        self.put_in(notice, told, now);
    }

    /// It fired before this process took over its partition, and the receiver is taken to know, unless `muted`.
    pub fn restore(&mut self, notice: &Arc<Notice>, muted: bool, now: Instant) {
        if self.take_out(&notice.alert.id).is_none() && muted {
            self.mute(&notice.alert.id);
        }
        self.put_in(notice, !muted, now);
        if !muted {
            // At once: the receiver may have been restarted meanwhile.
            self.schedule(&notice.alert.id, now);
        }
    }

    fn put_in(&mut self, notice: &Arc<Notice>, told: bool, now: Instant) {
        let bytes = cost(notice);
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            self.dropped += 1;
            return;
        }
        self.bytes += bytes;
        let id = notice.alert.id.clone();
        self.entries.insert(id.clone(), Entry { notice: Arc::clone(notice), told, refresh_at: now });
        if told {
            self.schedule(&id, self.every.map_or(now, |every| now + every));
        }
    }

    fn schedule(&mut self, id: &str, at: Instant) {
        if self.every.is_none() {
            return;
        }
        if let Some(entry) = self.entries.get_mut(id) {
            self.refresh.remove(&(entry.refresh_at, id.to_owned()));
            entry.refresh_at = at;
            self.refresh.insert((at, id.to_owned()));
        }
    }

    fn take_out(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.bytes -= cost(&entry.notice);
        self.refresh.remove(&(entry.refresh_at, id.to_owned()));
        Some(entry)
    }

    /// It does not fire any more, or the receiver does not take it.
    pub fn ends(&mut self, id: &str) {
        self.take_out(id);
    }

    /// The receiver is being told.
    pub fn told(&mut self, id: &str, now: Instant) {
        self.muted.remove(id);
        if let Some(entry) = self.entries.get_mut(id) {
            entry.told = true;
        }
        if let Some(every) = self.every {
            self.schedule(id, now + every);
        }
    }

    /// Whether the receiver was told of it and it still fires.
    pub fn is_told(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.told)
    }

    /// The receiver is not told of this episode because of a silence.
    pub fn mute(&mut self, id: &str) {
        if self.muted.len() < MUTED_MAX {
            self.muted.insert(id.to_owned());
        }
    }

    /// Whether the receiver was not told of this episode; that is forgotten.
    pub fn unmute(&mut self, id: &str) -> bool {
        self.muted.remove(id)
    }

    /// Alerts that fire and that nobody was told of, as far as `wanted` says that they are to be told now; they count
    /// as told of then.
    pub fn unmuted(&mut self, mut wanted: impl FnMut(&Notice) -> bool) -> Vec<Arc<Notice>> {
        let entries = &self.entries;
        let found = |id: &String| {
            let notice = &entries.get(id)?.notice;
            wanted(notice).then(|| Arc::clone(notice))
        };
        let notices: Vec<_> = self.muted.iter().filter_map(found).collect();
        for notice in &notices {
            self.muted.remove(&notice.alert.id);
        }
        notices
    }

    /// Alerts that are to be told again by now, at most so many; the next time comes later.
    pub fn due(&mut self, now: Instant, most: usize) -> Vec<Arc<Notice>> {
        let mut found = Vec::new();
        while found.len() < most
            && let Some((at, id)) = self.refresh.first()
            && *at <= now
        {
            let id = id.clone();
            let notice = self.entries.get(&id).map(|entry| Arc::clone(&entry.notice));
            self.schedule(&id, now + self.every.unwrap_or_default());
            if notice.is_none() {
                self.refresh.pop_first();
            }
            found.extend(notice);
        }
        found
    }

    /// The last that was heard of an alert that fires.
    pub fn get(&self, id: &str) -> Option<&Arc<Notice>> {
        self.entries.get(id).map(|entry| &entry.notice)
    }

    /// A partition is another's now.
    pub fn forget(&mut self, part: Part) {
        let gone = |(id, entry): (&String, &Entry)| (entry.notice.source.part == part).then(|| id.clone());
        let gone: Vec<_> = self.entries.iter().filter_map(gone).collect();
        for id in gone {
            self.take_out(&id);
            self.muted.remove(&id);
        }
    }

    /// Alerts that fire and are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Alerts that the budget had no room for, so far.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn cost(notice: &Notice) -> usize {
    // Text and fields are there twice: as they came and as they were read.
    notice.bytes().saturating_mul(2) + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::firing;

    const EVERY: Duration = Duration::from_secs(60);

    fn ids(notices: &[Arc<Notice>]) -> Vec<&str> {
        notices.iter().map(|notice| notice.alert.id.as_str()).collect()
    }

    #[test]
    fn what_the_receiver_knows_is_told_again_until_it_ends() {
        let (mut active, now) = (Active::new(Some(EVERY), 1 << 20), Instant::now());
        active.fires(&firing("a", 0), now);
        active.fires(&firing("b", 1), now);
        assert_eq!(ids(&active.due(now + EVERY, 9)), [""; 0], "nobody was told yet");
        active.told("a", now);
        active.told("b", now + Duration::from_secs(1));
        assert_eq!(ids(&active.due(now + EVERY, 9)), ["a"]);
        assert_eq!(ids(&active.due(now + EVERY + Duration::from_secs(1), 9)), ["b"]);
        assert_eq!(ids(&active.due(now + 2 * EVERY, 1)), ["a"]);
        active.ends("a");
        active.fires(&firing("b", 7), now + 2 * EVERY);
        assert!(active.is_told("b") && !active.is_told("a"), "a repetition changes nothing of that");
        assert_eq!(ids(&active.due(now + 9 * EVERY, 9)), ["b"]);
    }

    #[test]
    fn what_a_silence_held_back_is_told_when_it_has_ended_or_not_at_all() {
        let (mut active, now) = (Active::new(None, 1 << 20), Instant::now());
        for id in ["a", "b"] {
            active.fires(&firing(id, 0), now);
            active.mute(id);
        }
        assert_eq!(ids(&active.unmuted(|_| false)), [""; 0]);
        active.ends("a");
        assert!(active.unmute("a") && !active.unmute("a"), "its resolution is for nobody");
        assert_eq!(ids(&active.unmuted(|_| true)), ["b"]);
        assert_eq!(ids(&active.unmuted(|_| true)), [""; 0]);
    }

    #[test]
    fn what_fired_before_is_told_again_at_once_or_waits_for_its_silence() {
        let (mut active, now) = (Active::new(Some(EVERY), 1 << 20), Instant::now());
        active.restore(&firing("a", 0), false, now);
        active.restore(&firing("b", 1), true, now);
        assert_eq!(ids(&active.due(now, 9)), ["a"]);
        assert_eq!(ids(&active.unmuted(|_| true)), ["b"]);
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let now = Instant::now();
        let mut active = Active::new(Some(EVERY), cost(&firing("0", 0)) * 3);
        (0..5).for_each(|id| active.fires(&firing(&id.to_string(), id), now));
        assert_eq!((active.len(), active.dropped()), (3, 2));
        active.ends("0");
        active.fires(&firing("4", 4), now);
        assert_eq!((active.len(), active.dropped()), (3, 2));
        active.forget(firing("x", 0).source.part);
        assert_eq!((active.len(), active.bytes, active.refresh.len()), (0, 0, 0));
    }
}
