//! Waiting for a state, never for a time.

use std::thread;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the condition holds.
///
/// # Panics
/// Where it does not hold within `deadline`; says what was waited for.
#[track_caller]
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, deadline, || condition().then_some(()));
}

/// Waits until there is a value.
///
/// # Panics
/// Where there is none within `deadline`; says what was waited for.
#[track_caller]
pub fn until_some<T>(what: &str, deadline: Duration, mut value: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until the condition holds, at most `deadline`, and no longer than until `given_up` says so. Whether it came to
/// hold.
pub(crate) fn comes_to_hold(
    deadline: Duration,
    given_up: impl Fn() -> bool,
    mut condition: impl FnMut() -> bool,
) -> bool {
    let end = Instant::now() + deadline;
    while !condition() {
        if given_up() || Instant::now() >= end {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}
