//! Says once that something does not work, and once that it works again.

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use parking_lot::Mutex;

/// Whether something outside works. Logs when that changes, not every time it is seen.
#[derive(Debug)]
pub struct Condition {
    what: Cow<'static, str>,
    state: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    kind: String,
    since: Instant,
    times: u64,
}

impl Condition {
    /// `what` works, as far as is known. It begins a sentence: "inserting into ClickHouse".
    pub fn new(what: impl Into<Cow<'static, str>>) -> Self {
        Self { what: what.into(), state: Mutex::new(None) }
    }

    /// It did not work. Logged if it worked before, or failed in another way. `for_good`: it cannot work before
    /// somebody has changed something.
    pub fn failed(&self, kind: &str, for_good: bool, error: &dyn fmt::Display) {
        let mut state = self.state.lock();
        let (since, times) =
            state.as_ref().map_or((Instant::now(), 0), |trouble| (trouble.since, trouble.times));
        let news = state.as_ref().is_none_or(|trouble| trouble.kind != kind);
        if news && for_good {
            tracing::error!(
                kind,
                "{} does not work until somebody changes something, trying on: {error}",
                self.what
            );
        } else if news {
            tracing::warn!(kind, "{} does not work, trying again until it does: {error}", self.what);
        } else {
            tracing::debug!(kind, "{} still does not work: {error}", self.what);
        }
        *state = Some(Trouble { kind: kind.to_owned(), since, times: times + 1 });
    }

    /// It worked. Logged if it did not before.
    pub fn worked(&self) {
        let trouble = self.state.lock().take();
        if let Some(Trouble { since, times, .. }) = trouble {
            let seconds = since.elapsed().as_secs_f64();
            tracing::info!(times, seconds = format!("{seconds:.1}"), "{} works again", self.what);
        }
    }

    /// Whether it did not work when it was last tried.
    pub fn is_failing(&self) -> bool {
        self.state.lock().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_fails_until_it_works() {
        let condition = Condition::new("testing");
        assert!(!condition.is_failing());
        condition.failed("a", false, &"why");
        condition.failed("b", true, &"why");
        assert!(condition.is_failing());
        condition.worked();
        assert!(!condition.is_failing());
    }
}
