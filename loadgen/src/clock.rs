//! The time of a run: one start, as wall clock and as monotonic clock, so that moments of both can be compared.

use std::time::{Instant, SystemTime};

/// The time of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_at_ms: i64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_at_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        Self { started: Instant::now(), started_at_ms }
    }

    /// When the run began, Unix milliseconds.
    pub(crate) const fn started_at_ms(&self) -> i64 {
        self.started_at_ms
    }

    /// Now, Unix milliseconds; never goes back, even if the wall clock is set back meanwhile.
    pub(crate) fn now_ms(&self) -> i64 {
        self.started_at_ms + i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX >> 1)
    }

    /// A moment in microseconds since the run began.
    pub(crate) fn us(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }
}
