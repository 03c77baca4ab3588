//! Waiting for room in the producer's queue.
//!
//! When Kafka is away the queue fills and every connection with something to say stalls: perhaps a hundred thousand.
//! One task looks at the queue for all of them; none polls for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use penstock_kafka::Producer;
use tokio::sync::Notify;

/// How often the queue is looked at while anyone waits.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Those who wait for the producer's queue.
#[derive(Debug)]
pub struct Room {
    producer: Producer,
    /// Waiters go on when fewer records than this are outstanding: a quarter below full, so that each gets something.
    resume_below: usize,
    waiting: AtomicUsize,
    freed: Notify,
}

impl Room {
    pub(crate) fn new(producer: Producer, queue_records_max: usize) -> Arc<Self> {
        let resume_below = (queue_records_max - queue_records_max / 4).max(1);
        Arc::new(Self { producer, resume_below, waiting: AtomicUsize::new(0), freed: Notify::new() })
    }

    pub(crate) async fn wait(room: Arc<Self>) {
        let freed = room.freed.notified();
        if room.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            // The first to wait brings the watcher; it ends when nobody waits any more.
            tokio::spawn(Self::watch(Arc::clone(&room)));
        }
        let _counted = Waiting(&room.waiting);
        freed.await;
    }

    async fn watch(room: Arc<Self>) {
        while room.waiting.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
            if room.producer.outstanding() < room.resume_below {
                room.freed.notify_waiters();
            }
        }
    }
}

/// Counts a waiter out, also when its connection is dropped while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
