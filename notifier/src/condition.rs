//! Says once that something does not work, and once that it works again.

use std::fmt;
use std::time::Instant;

use parking_lot::Mutex;

/// Whether something outside works. Logs when that changes, not every time it is seen.
#[derive(Debug)]
pub(crate) struct Condition {
    what: String,
    state: Mutex<Option<(String, Instant)>>,
}

impl Condition {
    /// `what` works, as far as is known. It begins a sentence: "posting alerts to the webhook".
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), state: Mutex::new(None) }
    }

    /// It did not work. Logged if it worked before, or failed in another way.
    pub(crate) fn failed(&self, kind: &str, error: &dyn fmt::Display) {
        let mut state = self.state.lock();
        let since = state.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        if state.as_ref().is_none_or(|(known, _)| known != kind) {
            tracing::warn!(kind, "{} does not work, trying again until it does: {error}", self.what);
        } else {
            tracing::debug!(kind, "{} still does not work: {error}", self.what);
        }
        *state = Some((kind.to_owned(), since));
    }

    /// It worked. Logged if it did not before.
    pub(crate) fn worked(&self) {
        let trouble = self.state.lock().take();
        if let Some((_, since)) = trouble {
            tracing::info!(
                seconds = format!("{:.1}", since.elapsed().as_secs_f64()),
                "{} works again",
                self.what
            );
        }
    }

    /// Whether it did not work when it was last tried.
    pub(crate) fn is_failing(&self) -> bool {
        self.state.lock().is_some()
    }
}
