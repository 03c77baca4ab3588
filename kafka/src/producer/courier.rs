//! The thread that takes deliveries out of librdkafka and resolves their receipts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::Shared;
use super::generation::Generation;
use crate::KafkaError;
use crate::sys::{Event, Queue};

/// Pause after deliveries were taken: fewer, larger rounds cost a quarter less at low rates. The first delivery after a
/// quiet time is never held back.
const DRAIN_PAUSE: Duration = Duration::from_millis(1);
/// Deliveries that are counted together.
const COUNT_EVERY: usize = 256;
/// Longest wait for an event; a wake-up ends it early.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// How often a retired client is asked to give up what it still holds.
const PURGE_INTERVAL: Duration = Duration::from_millis(20);
/// Pause before another attempt to replace a client.
const REPLACE_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Courier {
    generation: Arc<Generation>,
    queue: Queue,
}

impl Courier {
    pub(super) const fn new(generation: Arc<Generation>, queue: Queue) -> Self {
        Self { generation, queue }
    }

    /// Starts the thread. It ends by itself after the generation is retired.
    pub(super) fn spawn(self, shared: &Arc<Shared>) -> Result<(), KafkaError> {
        let shared = Arc::downgrade(shared);
        thread::Builder::new()
            .name("kafka-deliveries".into())
            .spawn(move || self.run(&shared))
            .map(drop)
            .map_err(|error| KafkaError::Client {
                code: "THREAD".into(),
                why: format!("start the delivery thread: {error}"),
                retriable: true,
                fatal: false,
            })
    }

    fn run(self, shared: &Weak<Shared>) {
        while !self.generation.is_retired() {
            let (deliveries, fatal) = self.round(shared, IDLE_WAIT);
            if fatal {
                self.replace(shared);
            } else if deliveries > 0 {
                thread::sleep(DRAIN_PAUSE);
            }
        }
        self.close(shared);
    }

    /// Waits for events and passes all of them on. Returns how many deliveries ended, and whether the client is done
    /// for.
    fn round(&self, shared: &Weak<Shared>, wait: Duration) -> (usize, bool) {
        let mut met_fatal = false;
        let mut uncounted = 0;
        let deliveries = self.queue.drain(wait, |event| match event {
            Event::Delivery(completion, result) => {
                completion.complete(result.map_err(|code| self.generation.delivery_error(code)));
                uncounted += 1;
                // A round can be long while senders are busy, but not everybody waits for its end.
                if uncounted == COUNT_EVERY {
                    self.generation.ended(std::mem::take(&mut uncounted));
                }
            }
            Event::Error { code, why, fatal } => {
                met_fatal |= fatal;
                if let Some(shared) = shared.upgrade() {
                    shared.client_errors.fetch_add(1, Ordering::Relaxed);
                }
                tracing::debug!(code = code.name(), why, fatal, "the Kafka producer's client met an error");
            }
        });
        self.generation.ended(uncounted);
        (deliveries, met_fatal)
    }

    fn replace(&self, shared: &Weak<Shared>) {
        while !self.generation.is_retired() {
            let Some(shared) = shared.upgrade() else { return };
            match shared.replace(self.generation.number()) {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "the Kafka producer cannot be replaced yet");
                    drop(shared);
                    thread::sleep(REPLACE_RETRY);
                }
            }
        }
    }

    /// Gives up what is outstanding and reports it. Nothing can be left behind: librdkafka ends every record at the
    /// latest when its delivery timeout is over. The client is destroyed here, which waits for its threads.
    fn close(self, shared: &Weak<Shared>) {
        loop {
            self.generation.client().purge();
            self.round(shared, PURGE_INTERVAL);
            // A sender that is under way holds a topic, which holds the generation: it may still add a record.
            let is_unused = Arc::strong_count(&self.generation) == 1;
            if is_unused && self.generation.outstanding().load(Ordering::Acquire) == 0 {
                return;
            }
        }
    }
}
