//! Whether ClickHouse is tried at all. Pure: the caller says what time it is.
//!
//! After several failures in a row the breaker opens: nothing is sent until a pause is over, then one attempt, the
//! probe, decides for all. A server that comes back is not met by everything that waited for it at once.

use std::time::{Duration, Instant};

use penstock_service::backoff::Backoff;

/// Failures in a row after which it opens.
const FAILURES_MAX: u32 = 3;

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// One attempt, which is under way.
    HalfOpen,
    /// Nothing.
    Open,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// What the caller may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Try.
    Go,
    /// Ask again after this long.
    Wait(Duration),
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    until: Option<Instant>,
    backoff: Backoff,
    pause_max: Duration,
}

impl Breaker {
    /// A closed breaker that stays open for between these many milliseconds, longer each time a probe fails.
    pub fn new(pause_min_ms: u64, pause_max_ms: u64) -> Self {
        Self {
            state: State::Closed,
            failures: 0,
            until: None,
            backoff: Backoff::new(pause_min_ms, pause_max_ms),
            pause_max: Duration::from_millis(pause_max_ms),
        }
    }

    /// What it lets through now.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether to try now. Every `Go` must be followed by [`worked`](Self::worked) or [`failed`](Self::failed), or by
    /// [`broken_off`](Self::broken_off).
    pub fn ask(&mut self, now: Instant) -> Gate {
        let left = self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        match self.state {
            State::Closed => Gate::Go,
            State::Open if left.is_zero() => {
                self.state = State::HalfOpen;
                Gate::Go
            }
            State::Open => Gate::Wait(left),
            State::HalfOpen => Gate::Wait(self.pause_max.min(Duration::from_millis(100))),
        }
    }

    /// An attempt worked: everything is let through.
    pub fn worked(&mut self) {
        self.state = State::Closed;
        self.failures = 0;
        self.until = None;
        self.backoff.reset();
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let opens =
            self.state == State::HalfOpen || (self.state == State::Closed && self.failures >= FAILURES_MAX);
        if opens {
            self.state = State::Open;
            self.until = Some(now + self.backoff.next());
        }
    }

    /// An attempt was given up before its end was known.
    pub fn broken_off(&mut self, now: Instant) {
        if self.state == State::HalfOpen {
            self.state = State::Open;
            self.until = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_probe_decides() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1_000, 1_000);
        for _ in 0..2 {
            assert_eq!(breaker.ask(now), Gate::Go);
            breaker.failed(now);
        }
        breaker.worked();
        for _ in 0..3 {
            assert_eq!((breaker.state(), breaker.ask(now)), (State::Closed, Gate::Go));
            breaker.failed(now);
        }
        assert_eq!(breaker.state(), State::Open);
        assert!(matches!(breaker.ask(now), Gate::Wait(left) if left <= Duration::from_secs(1)));
        let later = now + Duration::from_secs(2);
        assert_eq!(breaker.ask(later), Gate::Go);
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(matches!(breaker.ask(later), Gate::Wait(_)), "one probe at a time");
        breaker.failed(later);
        assert_eq!(breaker.state(), State::Open);
        let later = later + Duration::from_secs(2);
        assert_eq!(breaker.ask(later), Gate::Go);
        breaker.worked();
        assert_eq!((breaker.state(), breaker.ask(later)), (State::Closed, Gate::Go));
    }

    #[test]
    fn failures_of_attempts_that_began_before_it_opened_prolong_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1_000, 1_000);
        (0..3).for_each(|_| breaker.failed(now));
        let Gate::Wait(left) = breaker.ask(now) else { panic!("open") };
        breaker.failed(now + Duration::from_millis(1));
        assert_eq!(breaker.ask(now), Gate::Wait(left));
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_another() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1, 1);
        (0..3).for_each(|_| breaker.failed(now));
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.ask(later), Gate::Go);
        breaker.broken_off(later);
        assert_eq!(breaker.ask(later), Gate::Go);
    }
}
