//! The circuit breaker as tasks see it: they wait before it, and report how their attempt ended.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_service::waiting;
use tokio_util::sync::CancellationToken;

use crate::breaker::{self, Breaker, State};
use crate::metrics::Metrics;

/// The writer stopped before something was done. Its offsets are not committed, so it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abandoned;

/// One breaker for everything that is sent to ClickHouse.
#[derive(Debug)]
pub(super) struct Gate(Mutex<Breaker>);

impl Gate {
    /// Lets everything pass until failures come in a row; then it is tried again after pauses between these, in
    /// milliseconds.
    pub(super) fn new(pause_min_ms: u64, pause_max_ms: u64) -> Self {
        Self(Mutex::new(Breaker::new(pause_min_ms, pause_max_ms)))
    }

    /// Waits until something may be tried.
    pub(super) async fn pass<'g>(
        &'g self,
        abort: &CancellationToken,
        metrics: &'g Metrics,
    ) -> Result<Permit<'g>, Abandoned> {
        loop {
            let (verdict, state) = {
                let mut breaker = self.0.lock();
                (breaker.ask(Instant::now()), breaker.state())
            };
            metrics.circuit(state);
            match verdict {
                breaker::Gate::Go => return Ok(Permit { gate: self, metrics, reported: false }),
                breaker::Gate::Wait(left) => pause_unless(left.max(Duration::from_millis(5)), abort).await?,
            }
        }
    }

    fn report(&self, metrics: &Metrics, report: impl FnOnce(&mut Breaker)) {
        let (before, after) = {
            let mut breaker = self.0.lock();
            let before = breaker.state();
            report(&mut breaker);
            (before, breaker.state())
        };
        metrics.circuit(after);
        if before != after {
            metrics.circuit_opened(after == State::Open);
            tracing::info!(state = after.name(), "the circuit breaker before ClickHouse changed its state");
        }
    }
}

/// Permission to try once. Says how that ended; dropped without, the end is not known.
#[derive(Debug)]
pub(super) struct Permit<'g> {
    gate: &'g Gate,
    metrics: &'g Metrics,
    reported: bool,
}

impl Permit<'_> {
    /// ClickHouse answered as it should.
    pub(super) fn worked(mut self) {
        self.reported = true;
        self.gate.report(self.metrics, Breaker::worked);
    }

    /// It did not.
    pub(super) fn failed(mut self) {
        self.reported = true;
        self.gate.report(self.metrics, |breaker| breaker.failed(Instant::now()));
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.gate.report(self.metrics, |breaker| breaker.broken_off(Instant::now()));
        }
    }
}

/// Waits, unless nothing may be tried any longer.
pub(super) async fn pause_unless(pause: Duration, abort: &CancellationToken) -> Result<(), Abandoned> {
    if waiting::pause(pause, abort).await { Ok(()) } else { Err(Abandoned) }
}
