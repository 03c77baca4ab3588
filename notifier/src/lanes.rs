//! What is sent together, and in which order. Pure.
//!
//! Everything with the same key is a lane: what comes within a time is sent together, and the next is sent only after
//! the one before has ended, so that "resolved" never overtakes "firing".

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When something is sent, and how much of it together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long the first of a lane waits for others.
    pub wait: Duration,
    /// So many are sent without waiting, and never more together; at least 1.
    pub most: usize,
    /// As many bytes are sent together, unless a single one has more.
    pub bytes: usize,
    /// Lanes that send at once.
    pub busy: usize,
}

#[derive(Debug)]
struct Lane<T> {
    busy: bool,
    due: Instant,
    waiting: VecDeque<(T, usize)>,
}

/// What waits to be sent.
#[derive(Debug)]
pub struct Lanes<T> {
    limits: Limits,
    lanes: HashMap<Arc<str>, Lane<T>>,
    /// Lanes with something that waits and nothing under way, by when they are due.
    ready: BTreeSet<(Instant, Arc<str>)>,
    busy: usize,
}

impl<T> Lanes<T> {
    /// Nothing waits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, lanes: HashMap::new(), ready: BTreeSet::new(), busy: 0 }
    }

    /// Puts something of so many bytes at the end of a lane.
    pub fn push(&mut self, key: &Arc<str>, item: T, bytes: usize, now: Instant) {
        let empty = || Lane { busy: false, due: now, waiting: VecDeque::new() };
        let lane = self.lanes.entry(Arc::clone(key)).or_insert_with(empty);
        let before = lane.due;
        if lane.waiting.is_empty() {
            lane.due = now + self.limits.wait;
        }
        lane.waiting.push_back((item, bytes));
        if lane.waiting.len() >= self.limits.most {
            lane.due = lane.due.min(now);
        }
        if !lane.busy {
            if lane.waiting.len() > 1 {
                self.ready.remove(&(before, Arc::clone(key)));
            }
            self.ready.insert((lane.due, Arc::clone(key)));
        }
    }

    /// The lane that is due for the longest time, and what it sends; until [`Self::free`] it sends nothing else.
    pub fn take(&mut self, now: Instant) -> Option<(Arc<str>, Vec<T>)> {
        if self.busy >= self.limits.busy || self.ready.first()?.0 > now {
            return None;
        }
        let (_, key) = self.ready.pop_first()?;
        let lane = self.lanes.get_mut(&key)?;
        let (mut taken, mut bytes) = (Vec::new(), 0usize);
        while taken.len() < self.limits.most.max(1) {
            let Some((_, more)) = lane.waiting.front() else { break };
            if !taken.is_empty() && bytes.saturating_add(*more) > self.limits.bytes {
                break;
            }
            bytes = bytes.saturating_add(*more);
            taken.extend(lane.waiting.pop_front().map(|(item, _)| item));
        }
        // What is left has waited long enough.
        lane.due = now;
        lane.busy = true;
        self.busy += 1;
        Some((key, taken))
    }

    /// What a lane sent has ended.
    pub fn free(&mut self, key: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.busy) else { return };
        lane.busy = false;
        self.busy -= 1;
        if lane.waiting.is_empty() {
            self.lanes.remove(key);
        } else {
            self.ready.insert((lane.due, Arc::clone(key)));
        }
    }

    /// Takes everything out that waits and is not wanted any more.
    pub fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        for lane in self.lanes.values_mut() {
            lane.waiting.retain(|(item, _)| wanted(item));
        }
        let lanes = &self.lanes;
        self.ready.retain(|(_, key)| lanes.get(key).is_some_and(|lane| !lane.waiting.is_empty()));
        self.lanes.retain(|_, lane| lane.busy || !lane.waiting.is_empty());
    }

    /// Nothing waits for others any longer.
    pub fn hurry(&mut self, now: Instant) {
        self.lanes.values_mut().for_each(|lane| lane.due = lane.due.min(now));
        let keys: Vec<_> =
            std::mem::take(&mut self.ready).into_iter().map(|(due, key)| (due.min(now), key)).collect();
        self.ready.extend(keys);
    }

    /// When the next lane is due, if it may send.
    pub fn next_due(&self) -> Option<Instant> {
        self.ready.first().map(|(due, _)| *due).filter(|_| self.busy < self.limits.busy)
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Lanes that send.
    pub const fn busy(&self) -> usize {
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    fn lanes(most: usize, busy: usize) -> Lanes<u32> {
        Lanes::new(Limits { wait: WAIT, most, bytes: 1_000, busy })
    }

    fn key(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn what_comes_within_the_time_is_sent_together() {
        let (mut lanes, begin) = (lanes(10, 8), Instant::now());
        lanes.push(&key("a"), 1, 1, begin);
        lanes.push(&key("b"), 2, 1, begin + Duration::from_secs(1));
        lanes.push(&key("a"), 3, 1, begin + Duration::from_secs(4));
        assert_eq!(lanes.take(begin + Duration::from_millis(4_999)), None);
        assert_eq!(lanes.next_due(), Some(begin + WAIT));
        assert_eq!(lanes.take(begin + WAIT), Some((key("a"), vec![1, 3])));
        assert_eq!(lanes.take(begin + WAIT), None);
        assert_eq!(lanes.take(begin + Duration::from_secs(6)), Some((key("b"), vec![2])));
    }

    #[test]
    fn a_lane_sends_one_thing_at_a_time() {
        let (mut lanes, now) = (lanes(2, 8), Instant::now());
        (0..5).for_each(|item| lanes.push(&key("a"), item, 1, now));
        assert_eq!(lanes.take(now), Some((key("a"), vec![0, 1])), "it is full: it does not wait");
        assert_eq!(lanes.take(now + WAIT), None);
        lanes.free(&key("a"));
        assert_eq!(lanes.take(now), Some((key("a"), vec![2, 3])));
        lanes.free(&key("a"));
        assert_eq!(lanes.take(now), Some((key("a"), vec![4])), "it has waited long enough");
        lanes.free(&key("a"));
        assert!(lanes.is_empty());
    }

    #[test]
    fn bytes_and_busy_lanes_are_bounded() {
        let (mut lanes, now) = (lanes(10, 1), Instant::now());
        for (name, item, bytes) in [("a", 1, 900), ("a", 2, 101), ("b", 3, 5_000), ("b", 4, 1)] {
            lanes.push(&key(name), item, bytes, now);
        }
        lanes.hurry(now);
        assert_eq!(lanes.take(now), Some((key("a"), vec![1])));
        assert_eq!((lanes.take(now), lanes.next_due()), (None, None));
        lanes.free(&key("a"));
        assert_eq!(lanes.take(now), Some((key("a"), vec![2])));
        lanes.free(&key("a"));
        assert_eq!(lanes.take(now), Some((key("b"), vec![3])), "larger than all, and alone");
    }

    proptest! {
        #[test]
        fn everything_is_sent_once_and_in_the_order_of_its_lane(
            steps in proptest::collection::vec((0u8..4, 0usize..3, 1usize..600), 1..200), most in 1usize..5,
        ) {
            let (mut lanes, mut now) = (lanes(most, 2), Instant::now());
            let keys = ["a", "b", "c"].map(key);
            let (mut pushed, mut sent, mut under_way) = (vec![Vec::new(); 3], vec![Vec::new(); 3], Vec::new());
            let mut take = |lanes: &mut Lanes<u32>, under_way: &mut Vec<Arc<str>>, now| {
                while let Some((key, items)) = lanes.take(now) {
                    assert!(!items.is_empty() && items.len() <= most && !under_way.contains(&key));
                    sent[keys.iter().position(|known| *known == key).unwrap()].extend(items);
                    under_way.push(key);
                }
                assert!(under_way.len() <= 2);
            };
            for (count, (step, lane, bytes)) in (0u32..).zip(steps) {
                match step {
                    0 | 1 => {
                        pushed[lane].push(count);
                        lanes.push(&keys[lane], count, bytes, now);
                    }
                    2 => take(&mut lanes, &mut under_way, now),
                    _ => {
                        now += Duration::from_secs(3);
                        under_way.pop().inspect(|key| lanes.free(key));
                    }
                }
            }
            lanes.hurry(now);
            while !lanes.is_empty() {
                take(&mut lanes, &mut under_way, now);
                let ended = under_way.pop().unwrap();
                lanes.free(&ended);
            }
            prop_assert_eq!(pushed, sent);
        }
    }
}
