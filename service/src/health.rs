//! Whether a server that is used all the time can be reached, for readiness and the log.

use std::fmt;

use crate::admin::Latch;
use crate::condition::Condition;

/// Watches the errors that a client reports, and asks the server itself when there are any.
#[derive(Debug)]
pub struct Health {
    latch: Latch,
    condition: Condition,
    errors: u64,
    suspect: bool,
}

impl Health {
    /// The server has answered: its latch is set. `what` is done with it, for the log: "reading from Kafka".
    pub fn new(latch: Latch, what: &'static str) -> Self {
        latch.set(true);
        Self { latch, condition: Condition::new(what), errors: 0, suspect: false }
    }

    /// The server may be away although no error says so: it is asked at the next look.
    pub const fn suspect(&mut self) {
        self.suspect = true;
    }

    /// Looks at how many errors were reported so far. After a new one the server is asked by `probe`, at every look until
    /// it answers again.
    pub fn look<E: fmt::Display>(&mut self, errors: u64, probe: impl FnOnce() -> Result<(), E>) {
        if errors == self.errors && !self.suspect && !self.condition.is_failing() {
            return;
        }
        self.errors = errors;
        self.suspect = false;
        match probe() {
            Ok(()) => {
                self.condition.worked();
                self.latch.set(true);
            }
            Err(error) => {
                self.condition.failed("unreachable", false, &error);
                self.latch.set(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Readiness;

    #[test]
    fn after_an_error_it_is_asked_until_it_answers() {
        let readiness = Readiness::new();
        let mut health = Health::new(readiness.latch("kafka"), "testing");
        let unasked = || -> Result<(), &str> { panic!("nothing was reported") };
        health.look(0, unasked);
        health.look(1, || Err("away"));
        assert!(!readiness.is_ready());
        health.look(1, || Err("still away"));
        health.look(1, || Ok::<(), &str>(()));
        assert!(readiness.is_ready());
        health.look(1, unasked);
        health.suspect();
        health.look(1, || Err("away"));
        assert!(!readiness.is_ready());
    }
}
