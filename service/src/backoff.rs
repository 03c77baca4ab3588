//! How long to wait before something that failed is tried again. Pure: it waits for nothing and reads no
//! clock.

use std::time::Duration;

/// Pauses that grow exponentially, with full jitter: each is drawn evenly from the shortest pause up to a
/// ceiling, and the ceiling doubles from one pause to the next, up to the longest pause.
///
/// Drawn over the whole span, clients that failed together do not come back together; never shorter than the
/// shortest pause, a loop around it does not spin.
#[derive(Clone, Debug)]
pub struct Backoff {
    min_ms: u64,
    max_ms: u64,
    ceiling_ms: u64,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Pauses from `min_ms` to `max_ms` milliseconds. A `max_ms` below `min_ms` counts as `min_ms`.
    pub fn new(min_ms: u64, max_ms: u64) -> Self {
        Self::with_rng(min_ms, max_ms, fastrand::Rng::new())
    }

    /// The same, with the same pauses for the same `seed`.
    pub fn seeded(min_ms: u64, max_ms: u64, seed: u64) -> Self {
        Self::with_rng(min_ms, max_ms, fastrand::Rng::with_seed(seed))
    }

    fn with_rng(min_ms: u64, max_ms: u64, rng: fastrand::Rng) -> Self {
        Self { min_ms, max_ms: max_ms.max(min_ms), ceiling_ms: min_ms, rng }
    }

    /// The next pause.
    #[allow(clippy::should_implement_trait, reason = "it never ends: an iterator would invite to collect it")]
    pub fn next(&mut self) -> Duration {
        // A ceiling of 0 would stay 0 for ever.
        self.ceiling_ms = self.ceiling_ms.max(1).saturating_mul(2).min(self.max_ms);
        Duration::from_millis(self.rng.u64(self.min_ms..=self.ceiling_ms))
    }

    /// Starts again with short pauses: call it when something worked.
    pub fn reset(&mut self) {
        self.ceiling_ms = self.min_ms;
    }

    /// The longest that the last pause could have been; before the first one, the shortest pause.
    pub fn ceiling(&self) -> Duration {
        Duration::from_millis(self.ceiling_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap()
    }

    proptest! {
        #[test]
        fn every_pause_lies_between_the_shortest_and_the_longest(
            min_ms in 0..u64::MAX, max_ms in 0..u64::MAX, seed: u64, pauses in 1..200usize,
        ) {
            let mut backoff = Backoff::seeded(min_ms, max_ms, seed);
            for _ in 0..pauses {
                let pause = ms(backoff.next());
                prop_assert!(pause >= min_ms);
                prop_assert!(pause <= max_ms.max(min_ms));
            }
        }

        #[test]
        fn the_ceiling_doubles_up_to_the_longest_pause(
            min_ms in 1..10_000u64, factor in 1..10_000u64, seed: u64,
        ) {
            let max_ms = min_ms * factor;
            let mut backoff = Backoff::seeded(min_ms, max_ms, seed);
            let mut expected = min_ms;
            for _ in 0..20 {
                let pause = backoff.next();
                expected = (expected * 2).min(max_ms);
                prop_assert_eq!(ms(backoff.ceiling()), expected);
                prop_assert!(pause <= backoff.ceiling());
            }
            prop_assert_eq!(ms(backoff.ceiling()), max_ms.min(min_ms << 20));
        }

        #[test]
        fn after_a_reset_it_grows_from_the_start(min_ms in 1..1_000u64, before in 0..100usize, seed: u64) {
            let max_ms = min_ms * 1_000;
            let mut backoff = Backoff::seeded(min_ms, max_ms, seed);
            for _ in 0..before {
                backoff.next();
            }
            backoff.reset();
            prop_assert_eq!(ms(backoff.ceiling()), min_ms);
            prop_assert!(ms(backoff.next()) <= 2 * min_ms);
        }

        #[test]
        fn the_same_seed_gives_the_same_pauses(min_ms in 0..1_000u64, max_ms in 0..100_000u64, seed: u64) {
            let pauses = || {
                let mut backoff = Backoff::seeded(min_ms, max_ms, seed);
                std::iter::repeat_with(move || backoff.next()).take(20).collect::<Vec<_>>()
            };
            prop_assert_eq!(pauses(), pauses());
        }
    }

    #[test]
    fn pauses_spread_over_the_whole_span() {
        let mut backoff = Backoff::seeded(100, 10_000, 7);
        while ms(backoff.ceiling()) < 10_000 {
            backoff.next();
        }
        let pauses: Vec<u64> = std::iter::repeat_with(|| ms(backoff.next())).take(1_000).collect();
        for tenth in 0..10 {
            let span = 100 + tenth * 990..100 + (tenth + 1) * 990;
            let hits = pauses.iter().filter(|pause| span.contains(*pause)).count();
            assert!((50..200).contains(&hits), "{hits} of 1000 pauses in {span:?}");
        }
    }
}
