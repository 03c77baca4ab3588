//! Where a device's readings come from, when the next is due, and how many the fleet may still make.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_proto::v1::SensorReading;
use prost::Message as _;

use crate::generator::{Generator, Made};

/// A device that fell behind its schedule catches up at most this much; the rest is left out, and the rate in the report
/// shows it.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Where a device's readings come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Made up, without end.
    Generated(Box<Generator>),
    /// Read from a file, until they are used up.
    Replay(std::vec::IntoIter<SensorReading>),
}

impl Source {
    pub(crate) fn next(&mut self, now_ms: i64) -> Option<Made> {
        match self {
            Self::Generated(generator) => generator.next(now_ms),
            Self::Replay(readings) => readings.next().map(|reading| Made {
                timestamp_ms: reading.timestamp,
                bytes: reading.encode_to_vec(),
                invalid: None,
            }),
        }
    }
}

/// When a device publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As soon as the window has room.
    AsAcked,
    /// At these moments, as far as the window has room.
    Every { interval: Duration, next: Instant },
}

impl Pace {
    /// Whether a publish is due; if so, the one after it is scheduled.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let Self::Every { interval, next } = self else { return true };
        if now < *next {
            return false;
        }
        *next = (*next + *interval).max(now.checked_sub(CATCH_UP_MAX).unwrap_or(now));
        true
    }

    /// Shifts the schedule so that it begins `elapsed` later.
    pub(crate) fn begin(&mut self, now: Instant, phase: f64) {
        if let Self::Every { interval, next } = self {
            *next = now + interval.mul_f64(phase);
        }
    }

    /// The moment the next publish is due, if it has one.
    pub(crate) fn next(&self) -> Option<Instant> {
        match self {
            Self::AsAcked => None,
            Self::Every { next, .. } => Some(*next),
        }
    }
}

/// How many readings the fleet may still make.
#[derive(Debug)]
pub(crate) struct Budget(Option<AtomicU64>);

impl Budget {
    /// At most this many; `None` is no limit.
    pub(crate) fn new(readings_max: Option<u64>) -> Self {
        Self(readings_max.map(AtomicU64::new))
    }

    /// Takes up to `wanted` readings.
    pub(crate) fn take(&self, wanted: usize) -> usize {
        let Some(left) = &self.0 else { return wanted };
        let wanted = wanted as u64;
        let before =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        let granted = before.unwrap_or_else(|left| left).min(wanted);
        usize::try_from(granted).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_device_publishes_once_an_interval() {
        let start = Instant::now();
        let interval = Duration::from_millis(100);
        let mut pace = Pace::Every { interval, next: start };
        pace.begin(start, 0.5);
        let due: Vec<_> = (0..10).map(|tick| pace.take(start + tick * interval / 2)).collect();
        assert_eq!(due, [false, true, false, true, false, true, false, true, false, true]);
    }

    #[test]
    fn a_paced_device_catches_up_a_second_at_most() {
        let start = Instant::now();
        let mut pace = Pace::Every { interval: Duration::from_millis(100), next: start };
        let late = start + Duration::from_secs(60);
        let burst = std::iter::from_fn(|| pace.take(late).then_some(())).count();
        assert_eq!(burst, 12);
        assert!(pace.next().unwrap() > late);
    }

    #[test]
    fn a_budget_is_given_out_once() {
        let budget = Budget::new(Some(10));
        assert_eq!([4, 4, 4, 4].map(|wanted| budget.take(wanted)), [4, 4, 2, 0]);
        assert_eq!(Budget::new(None).take(7), 7);
    }
}
