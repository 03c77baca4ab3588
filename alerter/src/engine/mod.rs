//! Applies rules to the readings of one Kafka partition. Pure: what comes out depends on the rules, a device's state and
//! the reading alone.

mod apply;
mod codec;
mod condition;
mod device;
mod episode;
mod raise;
mod snapshot;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use penstock_proto::{DeviceId, ReadingView};

pub use codec::SnapshotError;
pub use raise::Raised;

use apply::Apply;
use codec::State;
use device::{DIRTY, Device, LISTED};
use raise::{CHANGED, Cause, Identity, REMOVED};
use snapshot::Saved;

use crate::rules::{RuleSet, Test, Track, extract};

/// A reading and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Whose it is.
    pub device: DeviceId,
    /// Its offset in the partition.
    pub offset: i64,
    /// When it was received, milliseconds since the Unix epoch: the record's timestamp.
    pub received_ms: i64,
    /// What it says.
    pub view: &'a ReadingView<'a>,
}

/// What has happened since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings that were applied.
    pub readings: u64,
    /// Readings that a device's state had seen before.
    pub seen: u64,
    /// Rules applied to a reading.
    pub evaluations: u64,
    /// Rules that passed over a reading because it came after the allowed lateness.
    pub late: u64,
    /// Rules that passed over a reading because it had come before.
    pub duplicates: u64,
    /// Episodes that did not begin because of `flapping`.
    pub suppressed: u64,
    /// Firing records, without repetitions.
    pub raised: u64,
    /// Resolved records.
    pub resolved: u64,
    /// Repetitions.
    pub repeated: u64,
}

/// Entries in the queue of deadlines that count no longer, beside one a device, before they are removed.
const STALE_MAX: usize = 1_024;

/// All devices of one Kafka partition, and the rules that are applied to them.
#[derive(Clone, Debug)]
pub struct Engine {
    rules: Arc<RuleSet>,
    partition: i32,
    devices: HashMap<DeviceId, Device>,
    /// When a device may fall silent. Only the entry that the device itself names counts; a reading may have come since, and
    /// then the device gets another one when it falls due.
    deadlines: BinaryHeap<Reverse<(i64, DeviceId)>>,
    has_silence: bool,
    dirty: VecDeque<DeviceId>,
    firing: usize,
    heap_bytes: usize,
    counts: Counts,
    scratch: Scratch,
}

/// Memory that is used again for each reading.
#[derive(Clone, Debug, Default)]
struct Scratch {
    values: Vec<Option<f64>>,
    slots: Vec<Option<State>>,
    bytes: Vec<u8>,
}

impl Engine {
    /// An engine without any state.
    pub fn new(rules: Arc<RuleSet>, partition: i32) -> Self {
        let mut engine = Self {
            rules,
            partition,
            devices: HashMap::new(),
            deadlines: BinaryHeap::new(),
            has_silence: false,
            dirty: VecDeque::new(),
            firing: 0,
            heap_bytes: 0,
            counts: Counts::default(),
            scratch: Scratch::default(),
        };
        engine.prepare();
        engine
    }

    fn prepare(&mut self) {
        self.has_silence = self.rules.tracks().iter().any(Track::is_silence);
        self.scratch.slots.clear();
        self.scratch.slots.resize_with(self.rules.tracks().len(), || None);
    }

    /// The rules in force.
    pub const fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Applies one reading. Nothing happens if the device's state has seen its offset.
    pub fn reading(&mut self, reading: &Reading<'_>, out: &mut Vec<Raised>) {
        let rules = Arc::clone(&self.rules);
        let known = self.devices.get(&reading.device);
        let Scratch { values, slots, .. } = &mut self.scratch;
        let seen = match known {
            Some(device) => {
                if device.seen().is_some_and(|seen| seen >= reading.offset) {
                    self.counts.seen += 1;
                    return;
                }
                device.read(slots)
            }
            None => {
                slots.fill_with(|| None);
                None
            }
        };
        extract(rules.metrics(), reading.view, values);
        self.counts.readings += 1;
        let mut apply = Apply {
            rules: &rules,
            cause: Cause {
                device: reading.device,
                partition: self.partition,
                offset: reading.offset,
                time_ms: reading.view.timestamp_ms,
            },
            counts: &mut self.counts,
            firing: 0,
            out,
        };
        let mut has_state = false;
        for (track, slot) in rules.tracks().iter().zip(slots.iter_mut()) {
            apply.track(track, slot, values, reading, seen);
            has_state |= slot.is_some();
        }
        let change = apply.firing;
        self.firing = self.firing.saturating_add_signed(change);
        if has_state || known.is_some() {
            self.store(reading.device, reading.offset, true);
        }
    }

    /// Writes what is in the slots into the device's state, and sees to its deadline.
    fn store(&mut self, id: DeviceId, seen: i64, changed: bool) {
        let Scratch { slots, bytes, .. } = &mut self.scratch;
        let device = self.devices.entry(id).or_insert_with(Device::new);
        let before = if device.is_blank() { 0 } else { allocated(device.bytes()) };
        let mut queued = device.deadline();
        if self.has_silence
            && let Some(due_ms) = deadline(&self.rules, slots)
            && queued.is_none_or(|queued| due_ms < queued)
        {
            queued = Some(due_ms);
            self.deadlines.push(Reverse((due_ms, id)));
        }
        device.write(seen, queued, slots, bytes);
        self.heap_bytes = self.heap_bytes + allocated(device.bytes()) - before;
        if self.deadlines.len() > 2 * self.devices.len() + STALE_MAX {
            let devices = &self.devices;
            self.deadlines.retain(|Reverse((due_ms, id))| {
                devices.get(id).is_some_and(|device| device.deadline() == Some(*due_ms))
            });
        }
        if changed {
            self.mark_dirty(id);
        }
    }

    /// Leaves the queue of deadlines.
    fn unqueue(&mut self, id: DeviceId, seen: i64) {
        if let Some(device) = self.devices.get_mut(&id) {
            let before = allocated(device.bytes());
            device.write(seen, None, &self.scratch.slots, &mut self.scratch.bytes);
            self.heap_bytes = self.heap_bytes + allocated(device.bytes()) - before;
        }
    }

    /// The partition's time of receipt has reached `now_ms`: devices that are silent too long are raised. Cheap where
    /// nothing is due.
    ///
    /// Every reading received earlier must have been applied: after a restore, those that are read again, too.
    pub fn advance(&mut self, now_ms: i64, out: &mut Vec<Raised>) {
        while let Some(Reverse((due_ms, id))) = self.deadlines.peek().copied()
            && due_ms <= now_ms
        {
            self.deadlines.pop();
            if self.devices.get(&id).is_some_and(|device| device.deadline() == Some(due_ms)) {
                self.fall_due(id, now_ms, out);
            }
        }
    }

    fn fall_due(&mut self, id: DeviceId, now_ms: i64, out: &mut Vec<Raised>) {
        let rules = Arc::clone(&self.rules);
        let Some(device) = self.devices.get(&id) else { return };
        let Some(seen) = device.read(&mut self.scratch.slots) else { return };
        self.unqueue(id, seen);
        let cause = Cause { device: id, partition: self.partition, offset: seen, time_ms: now_ms };
        let mut apply = Apply { rules: &rules, cause, counts: &mut self.counts, firing: 0, out };
        let mut changed = false;
        for (track, slot) in rules.tracks().iter().zip(self.scratch.slots.iter_mut()) {
            if let Some(state) = slot {
                changed |= apply.advance(track, state, now_ms);
            }
        }
        let change = apply.firing;
        self.firing = self.firing.saturating_add_signed(change);
        self.store(id, seen, changed);
    }

    /// Adopts other rules, after what is due by `now_ms` under the old ones was raised. Rules of the same name and meaning
    /// keep their state; episodes of all others end with the reason `rule-removed` or `rule-changed`. Looks at every device.
    pub fn adopt(&mut self, rules: Arc<RuleSet>, now_ms: i64, out: &mut Vec<Raised>) {
        self.advance(now_ms, out);
        let old = std::mem::replace(&mut self.rules, rules);
        let rules = Arc::clone(&self.rules);
        let targets = targets(&rules);
        self.deadlines.clear();
        let mut old_slots = Vec::new();
        old_slots.resize_with(old.tracks().len(), || None);
        self.prepare();
        let mut ids: Vec<DeviceId> = self.devices.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(seen) = self.devices.get(&id).and_then(|device| device.read(&mut old_slots)) else {
                continue;
            };
            self.scratch.slots.fill_with(|| None);
            self.unqueue(id, seen);
            let mut changed = false;
            for (track, slot) in old.tracks().iter().zip(&mut old_slots) {
                let Some(state) = slot.take() else { continue };
                let was_firing = state.episode.firing.is_some();
                let saved = Saved {
                    fingerprint: track.fingerprint,
                    state,
                    identity: was_firing.then(|| Identity::of(old.rule(track), track)),
                };
                if !self.keep(&targets, saved, id, seen, out) {
                    changed = true;
                    self.firing = self.firing.saturating_sub(usize::from(was_firing));
                }
            }
            self.store(id, seen, changed);
        }
    }

    /// Puts a state where it belongs under the rules in force. If there is no such place, an episode under way ends, and
    /// this is false.
    fn keep(
        &mut self,
        targets: &HashMap<u64, usize>,
        saved: Saved<'_>,
        device: DeviceId,
        seen: i64,
        out: &mut Vec<Raised>,
    ) -> bool {
        let Saved { fingerprint, mut state, identity } = saved;
        let is_meant = |track: &Track| self.rules.rule(track).scope().contains(&device);
        if let Some(index) = targets.get(&fingerprint)
            && self.rules.tracks().get(*index).is_some_and(is_meant)
            && let Some(slot) = self.scratch.slots.get_mut(*index)
        {
            *slot = Some(state);
            return true;
        }
        let now_ms = state.now().time_ms;
        if let (Some(identity), Some(onset_ms)) = (identity, state.episode.end()) {
            let is_there = self.rules.rules().iter().any(|rule| rule.name() == identity.rule);
            let cause =
                Cause { device, partition: self.partition, offset: seen, time_ms: now_ms.max(onset_ms) };
            let reason = if is_there { CHANGED } else { REMOVED };
            out.push(raise::withdrawn(identity, cause, onset_ms, reason));
            self.counts.resolved += 1;
        }
        false
    }

    /// The device's state as bytes that say up to which offset it has seen readings; `None` if there is nothing to keep.
    pub fn snapshot(&self, device: DeviceId) -> Option<Vec<u8>> {
        let mut slots = Vec::new();
        slots.resize_with(self.rules.tracks().len(), || None);
        let seen = self.devices.get(&device)?.read(&mut slots)?;
        slots.iter().any(Option::is_some).then(|| snapshot::write(&self.rules, seen, &slots))
    }

    /// Takes over a device's state, whatever the rules were when it was saved: what belongs to no rule in force is left
    /// out, and its episodes under way end; then the device counts as changed.
    ///
    /// # Errors
    /// [`SnapshotError`] if the bytes are not a state; then nothing has changed.
    pub fn restore(
        &mut self,
        device: DeviceId,
        bytes: &[u8],
        out: &mut Vec<Raised>,
    ) -> Result<(), SnapshotError> {
        let rules = Arc::clone(&self.rules);
        let (seen, saved) = snapshot::read(bytes)?;
        let targets = targets(&rules);
        let is_known =
            |fingerprint: u64| targets.get(&fingerprint).and_then(|index| rules.tracks().get(*index));
        if saved.iter().any(|saved| {
            is_known(saved.fingerprint).is_some_and(|track| !snapshot::fits(track, &saved.state))
        }) {
            return Err(SnapshotError::Invalid("a state that is not its rule's"));
        }
        self.forget(device);
        self.scratch.slots.fill_with(|| None);
        let mut changed = false;
        for saved in saved {
            changed |= !self.keep(&targets, saved, device, seen, out);
        }
        self.firing += firing(&self.scratch.slots);
        self.store(device, seen, changed);
        Ok(())
    }

    /// Leaves out everything that is known of a device.
    fn forget(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.remove(&id) {
            self.heap_bytes = self.heap_bytes.saturating_sub(allocated(device.bytes()));
            if device.read(&mut self.scratch.slots).is_some() {
                self.firing = self.firing.saturating_sub(firing(&self.scratch.slots));
            }
        }
    }

    /// Moves up to `max` devices whose state has changed since it was taken or [marked clean](Self::mark_clean) into
    /// `into`, oldest change first; they count as clean from then on. Fewer than `max`: there are no more.
    pub fn take_dirty(&mut self, max: usize, into: &mut Vec<DeviceId>) {
        let mut taken = 0;
        while taken < max
            && let Some(id) = self.dirty.pop_front()
        {
            let Some(device) = self.devices.get_mut(&id) else { continue };
            let is_dirty = device.flags() & DIRTY != 0;
            device.clear(LISTED | DIRTY);
            if device.is_empty() {
                self.forget(id);
            }
            if is_dirty {
                into.push(id);
                taken += 1;
            }
        }
    }

    /// The device's state as it is now has been saved.
    pub fn mark_clean(&mut self, device: DeviceId) {
        if let Some(device) = self.devices.get_mut(&device) {
            device.clear(DIRTY);
        }
    }

    /// The device's state has to be saved: it has changed, or it was taken and could not be saved.
    pub fn mark_dirty(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.set(DIRTY);
            if device.flags() & LISTED == 0 {
                device.set(LISTED);
                self.dirty.push_back(id);
            }
        }
    }

    /// Devices of which anything is known.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Episodes under way.
    pub const fn firing(&self) -> usize {
        self.firing
    }

    /// What has happened since the engine was made.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes of memory, as an estimate.
    pub fn bytes(&self) -> usize {
        // A hash table has room for an eighth more than its capacity, and a byte a place.
        let table = self.devices.capacity() / 7 * 8 * (size_of::<(DeviceId, Device)>() + 1);
        let deadlines = self.deadlines.capacity() * size_of::<Reverse<(i64, DeviceId)>>();
        let dirty = self.dirty.capacity() * size_of::<DeviceId>();
        size_of::<Self>() + table + deadlines + dirty + self.heap_bytes
    }
}

/// What an allocation of so many bytes takes.
const fn allocated(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16)
}

fn firing(slots: &[Option<State>]) -> usize {
    slots.iter().flatten().filter(|state| state.episode.firing.is_some()).count()
}

fn targets(rules: &RuleSet) -> HashMap<u64, usize> {
    rules.tracks().iter().enumerate().map(|(index, track)| (track.fingerprint, index)).collect()
}

/// When a device has something to say next if no reading comes. What lies behind the end of time is never.
fn deadline(rules: &RuleSet, slots: &[Option<State>]) -> Option<i64> {
    let due = |(track, slot): (&Track, &Option<State>)| {
        let (Test::Silence { silence_ms }, Some(state)) = (&track.test, slot) else { return None };
        if !state.episode.active {
            return state.now().time_ms.checked_add(*silence_ms);
        }
        state.episode.firing?.said_ms.checked_add(track.modifiers.repeat_ms?)
    };
    rules.tracks().iter().zip(slots).filter_map(due).min()
}

#[cfg(test)]
mod tests;
