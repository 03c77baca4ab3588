//! Whether Kafka can be reached, for readiness and the log.

use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{Consumer, TopicPartition};
use penstock_service::admin::Latch;
use penstock_service::condition::Condition;

/// How long the thread waits for Kafka's answer when it asks whether it is back.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Watches the errors that a consumer reports.
pub(super) struct KafkaHealth {
    latch: Latch,
    condition: Condition,
    errors: u64,
    suspect: bool,
}

impl KafkaHealth {
    /// Kafka has answered: its latch is set.
    pub(super) fn new(latch: Latch) -> Self {
        latch.set(true);
        Self { latch, condition: Condition::new("reading from Kafka"), errors: 0, suspect: false }
    }

    /// Kafka may be away although no error says so: it is asked at the next look.
    pub(super) const fn suspect(&mut self) {
        self.suspect = true;
    }

    /// Looks at what the consumer reported since the last time. After an error it asks Kafka, until it answers again.
    pub(super) fn look(&mut self, consumer: &Consumer, topic: &Arc<str>) {
        let errors = consumer.errors();
        if errors == self.errors && !self.suspect && !self.condition.is_failing() {
            return;
        }
        self.errors = errors;
        self.suspect = false;
        match consumer.watermarks(&TopicPartition::new(Arc::clone(topic), 0), PROBE_TIMEOUT) {
            Ok(_) => {
                self.condition.worked();
                self.latch.set(true);
            }
            Err(error) => {
                let reported = consumer.last_error().unwrap_or(&error);
                self.condition.failed("unreachable", false, reported);
                self.latch.set(false);
            }
        }
    }
}
