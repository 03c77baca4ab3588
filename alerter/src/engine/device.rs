//! One device's state as it lies in memory: one allocation. Pure.

use super::codec::{Bytes, SnapshotError, State, put, put_signed, put_state, state};
use super::condition::Key;

/// Changed since it was last saved.
pub(crate) const DIRTY: u8 = 1;
/// Stands in the list of changed devices.
pub(crate) const LISTED: u8 = 2;
/// Stands in the queue of deadlines.
const QUEUED: u8 = 4;

/// `[flags][deadline, if queued][seen][base][track, state]…`; tracks as differences to the one before.
#[derive(Clone, Debug)]
pub(crate) struct Device(Box<[u8]>);

/// What comes before the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last offset that the state has seen.
    pub(crate) seen: i64,
    /// What times are written as differences to.
    pub(crate) base: Key,
}

impl Header {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_signed(out, self.seen);
        put_signed(out, self.base.time_ms);
        put(out, self.base.sequence);
    }

    pub(crate) fn read(bytes: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        let (seen, time_ms, sequence) = (bytes.signed()?, bytes.signed()?, bytes.number()?);
        Ok(Self { seen, base: Key { time_ms, sequence } })
    }
}

/// The newest of all times: then most differences are one byte.
pub(crate) fn base<'s>(states: impl Iterator<Item = &'s State>) -> Key {
    states.map(State::now).max().unwrap_or(Key { time_ms: 0, sequence: 0 })
}

impl Device {
    /// A device of which nothing is known.
    pub(crate) fn new() -> Self {
        Self(Box::new([0]))
    }

    pub(crate) fn flags(&self) -> u8 {
        self.0[0]
    }

    pub(crate) fn set(&mut self, flags: u8) {
        self.0[0] |= flags;
    }

    pub(crate) fn clear(&mut self, flags: u8) {
        self.0[0] &= !flags;
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known of it.
    pub(crate) fn is_blank(&self) -> bool {
        self.0.len() == 1
    }

    /// Which of the entries in the queue of deadlines is the device's.
    pub(crate) fn deadline(&self) -> Option<i64> {
        if self.flags() & QUEUED == 0 { None } else { Bytes { rest: &self.0[1..] }.signed().ok() }
    }

    /// What comes behind the deadline.
    fn state(&self) -> Bytes<'_> {
        let mut bytes = Bytes { rest: &self.0[1..] };
        if self.flags() & QUEUED != 0 {
            // It was written; if it cannot be read, what follows says so.
            let _ = bytes.signed();
        }
        bytes
    }

    /// Whether it has no state under any rule.
    pub(crate) fn is_empty(&self) -> bool {
        let mut bytes = self.state();
        Header::read(&mut bytes).is_err() || bytes.rest.is_empty()
    }

    /// The last offset it has seen; `None` if it is blank.
    pub(crate) fn seen(&self) -> Option<i64> {
        self.state().signed().ok()
    }

    /// Reads the states into `slots`, one for each track; all others are `None`. Returns the last offset seen.
    pub(crate) fn read(&self, slots: &mut [Option<State>]) -> Option<i64> {
        slots.fill_with(|| None);
        let seen = self.try_read(slots);
        debug_assert!(seen.is_ok() || self.is_blank(), "{seen:?}: what was written can be read");
        seen.ok()
    }

    fn try_read(&self, slots: &mut [Option<State>]) -> Result<i64, SnapshotError> {
        let mut bytes = self.state();
        let header = Header::read(&mut bytes)?;
        let mut next = 0usize;
        while !bytes.rest.is_empty() {
            let skip = usize::try_from(bytes.number()?).map_err(|_| SnapshotError::Truncated)?;
            let slot = slots.get_mut(next.saturating_add(skip)).ok_or(SnapshotError::Truncated)?;
            *slot = Some(state(&mut bytes, header.base)?);
            next += skip + 1;
        }
        Ok(header.seen)
    }

    /// Replaces the states and the deadline. `scratch` is only there to be used again.
    pub(crate) fn write(
        &mut self,
        seen: i64,
        deadline: Option<i64>,
        slots: &[Option<State>],
        scratch: &mut Vec<u8>,
    ) {
        scratch.clear();
        scratch.push(self.flags() & !QUEUED);
        if let Some(deadline_ms) = deadline {
            scratch[0] |= QUEUED;
            put_signed(scratch, deadline_ms);
        }
        let header = Header { seen, base: base(slots.iter().flatten()) };
        header.put(scratch);
        let mut next = 0;
        for (index, state) in slots.iter().enumerate() {
            if let Some(state) = state {
                put(scratch, (index - next) as u64);
                put_state(scratch, state, header.base);
                next = index + 1;
            }
        }
        if scratch.len() == self.0.len() {
            self.0.copy_from_slice(scratch);
        } else {
            self.0 = scratch.as_slice().into();
        }
    }
}
