//! How the devstack says what it is doing (a first fetch takes a minute). Never anything but whole lines of text.

use std::fmt;
use std::sync::Arc;

/// Receives one line of text per step. Every line goes to `tracing` (level debug) too.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&str) + Send + Sync>);

impl Progress {
    /// Hands every line to `report`.
    pub fn call(report: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Writes lines to standard error; the default.
    #[must_use]
    pub fn stderr() -> Self {
        Self::call(|line| eprintln!("devstack: {line}"))
    }

    /// Says nothing.
    #[must_use]
    pub fn quiet() -> Self {
        Self::call(|_| ())
    }

    pub(crate) fn say(&self, line: impl AsRef<str>) {
        tracing::debug!(target: "penstock_devstack", "{}", line.as_ref());
        (self.0)(line.as_ref());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::stderr()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
