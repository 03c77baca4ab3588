//! What a run counts while it goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

/// Percentiles of a latency, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half of all were at most this.
    pub p50: f64,
    /// 95 of 100 were at most this.
    pub p95: f64,
    /// 99 of 100 were at most this.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// How many were measured.
    pub samples: u64,
}

/// Collects durations up to an hour with three significant digits.
#[derive(Debug)]
pub struct Durations(Mutex<Histogram<u64>>);

const LONGEST_US: u64 = 3_600_000_000;

impl Durations {
    #[allow(clippy::expect_used, reason = "constant arguments, and every test builds one")]
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds")))
    }

    /// Adds a duration; longer ones than an hour count as an hour.
    pub(crate) fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US);
        self.0.lock().saturating_record(us);
    }

    /// The percentiles; `None` if nothing was collected.
    pub fn latency(&self) -> Option<Latency> {
        let histogram = self.0.lock();
        let samples = histogram.len();
        #[allow(clippy::cast_precision_loss, reason = "at most an hour in microseconds")]
        let ms = |us: u64| us as f64 / 1_000.0;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        let latency =
            || Latency { p50: at(0.50), p95: at(0.95), p99: at(0.99), max: ms(histogram.max()), samples };
        (samples > 0).then(latency)
    }
}

/// A count that many tasks add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// The count of this moment.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a run, for a display while it goes on. The ledger, not this, is what a verdict rests on.
#[derive(Debug)]
pub struct Stats {
    /// Distinct readings handed to the MQTT client.
    pub published: Count,
    /// Readings accepted; with 3.1.1 those made invalid on purpose, too.
    pub acked: Count,
    /// Readings acknowledged as dead letters (MQTT 5, 0x99).
    pub dead_letters: Count,
    /// Readings refused.
    pub refused: Count,
    /// Readings handed over again.
    pub resent: Count,
    /// Connections that were lost after they stood.
    pub reconnects: Count,
    /// Connections that stand now.
    pub connected: Count,
    /// Devices that have been connected at least once.
    pub ever_connected: Count,
    /// From the first hand-over of a publish to its acknowledgement.
    pub puback: Durations,
    /// From the first hand-over of a reading to its being seen in a query.
    pub queryable: Durations,
    last_error: Mutex<Option<String>>,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            published: Count::default(),
            acked: Count::default(),
            dead_letters: Count::default(),
            refused: Count::default(),
            resent: Count::default(),
            reconnects: Count::default(),
            connected: Count::default(),
            ever_connected: Count::default(),
            puback: Durations::new(),
            queryable: Durations::new(),
            last_error: Mutex::new(None),
        }
    }

    pub(crate) fn set_last_error(&self, error: String) {
        *self.last_error.lock() = Some(error);
    }

    /// Why the latest connection was lost or not made.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let some = Durations::new();
        assert_eq!(some.latency(), None);
        (1..=1_000).for_each(|ms| some.record(Duration::from_millis(ms)));
        let latency = some.latency().unwrap();
        assert_eq!(latency.samples, 1_000);
        for (found, expected) in
            [(latency.p50, 500.0), (latency.p95, 950.0), (latency.p99, 990.0), (latency.max, 1_000.0)]
        {
            assert!((found / expected - 1.0_f64).abs() < 0.002, "{found} {expected}");
        }
        some.record(Duration::MAX);
        assert!(some.latency().unwrap().max >= 3_590_000.0);
    }
}
