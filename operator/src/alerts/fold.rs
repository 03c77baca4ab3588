//! Records of alerts become episodes: the last record of an id says how it is. Pure, and bounded.

use std::collections::{BTreeSet, HashMap};

use penstock_proto::v1::{AlertState, DeviceAlert};

/// Episodes that fire and are held at once; of more, the oldest are not shown.
const FIRING_MAX: usize = 200_000;

/// The newest episodes of one kind, by the time of their last record.
#[derive(Debug)]
struct Newest {
    max: usize,
    by_id: HashMap<String, DeviceAlert>,
    by_time: BTreeSet<(i64, String)>,
}

impl Newest {
    fn new(max: usize) -> Self {
        Self { max, by_id: HashMap::new(), by_time: BTreeSet::new() }
    }

    /// Returns whether something had to make room.
    fn insert(&mut self, alert: DeviceAlert) -> bool {
        self.remove(&alert.id);
        self.by_time.insert((alert.time, alert.id.clone()));
        self.by_id.insert(alert.id.clone(), alert);
        if self.by_id.len() <= self.max {
            return false;
        }
        if let Some((_, oldest)) = self.by_time.pop_first() {
            self.by_id.remove(&oldest);
        }
        true
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(alert) = self.by_id.remove(id) else { return false };
        self.by_time.remove(&(alert.time, alert.id));
        true
    }
}

/// Episodes by how they are.
#[derive(Debug)]
pub(super) struct Episodes {
    firing: Newest,
    resolved: Newest,
    firing_left_out: u64,
    resolved_count: u64,
}

impl Episodes {
    /// Of resolved episodes the newest so many are held.
    pub(super) fn new(resolved_max: usize) -> Self {
        Self {
            firing: Newest::new(FIRING_MAX),
            resolved: Newest::new(resolved_max),
            firing_left_out: 0,
            resolved_count: 0,
        }
    }

    /// Takes in a record.
    pub(super) fn add(&mut self, alert: DeviceAlert) {
        match alert.state() {
            AlertState::Resolved => {
                self.firing.remove(&alert.id);
                self.resolved_count += 1;
                self.resolved.insert(alert);
            }
            AlertState::Firing => {
                self.firing_left_out += u64::from(self.firing.insert(alert));
            }
            AlertState::Unspecified => {}
        }
    }

    /// Episodes that fire, and how many were left out.
    pub(super) fn firing(&self) -> (u64, u64) {
        (self.firing.by_id.len() as u64, self.firing_left_out)
    }

    /// Episodes that are resolved.
    pub(super) const fn resolved(&self) -> u64 {
        self.resolved_count
    }

    /// The newest, newest first.
    pub(super) fn newest(self, firing: bool, resolved: bool, limit: usize) -> Vec<DeviceAlert> {
        let mut all = Vec::new();
        for (wanted, newest) in [(firing, self.firing), (resolved, self.resolved)] {
            if wanted {
                all.extend(newest.by_id.into_values());
            }
        }
        all.sort_by(|left, right| (right.time, &right.id).cmp(&(left.time, &left.id)));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn alert(id: u8, time: i64, resolved: bool) -> DeviceAlert {
        let state = if resolved { AlertState::Resolved } else { AlertState::Firing };
        DeviceAlert { id: id.to_string(), time, state: state.into(), ..DeviceAlert::default() }
    }

    #[test]
    fn the_last_record_of_an_episode_says_how_it_is() {
        let mut episodes = Episodes::new(10);
        for (id, time, resolved) in
            [(1, 10, false), (2, 20, false), (1, 30, true), (2, 40, false), (3, 5, false)]
        {
            episodes.add(alert(id, time, resolved));
        }
        assert_eq!((episodes.firing(), episodes.resolved()), ((2, 0), 1));
        let newest = episodes.newest(true, true, 2);
        assert_eq!(newest.iter().map(|alert| alert.id.as_str()).collect::<Vec<_>>(), ["2", "1"]);
    }

    proptest! {
        /// However few are held, they are the newest.
        #[test]
        fn the_newest_resolved_are_those_of_a_fold_that_holds_everything(
            mut records in proptest::collection::vec((0u8..30, 0i64..1_000), 0..60), limit in 1usize..8,
        ) {
            // An episode is resolved once.
            let mut seen = BTreeSet::new();
            records.retain(|(id, _)| seen.insert(*id));
            let mut episodes = Episodes::new(limit);
            let mut model = BTreeMap::new();
            for (id, time) in records {
                episodes.add(alert(id, time - 1, false));
                episodes.add(alert(id, time, true));
                model.insert((time, id.to_string()), ());
            }
            prop_assert_eq!(episodes.resolved(), model.len() as u64);
            let found: Vec<_> =
                episodes.newest(true, true, limit).into_iter().map(|alert| (alert.time, alert.id)).collect();
            let expected: Vec<_> = model.into_keys().rev().take(limit).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
