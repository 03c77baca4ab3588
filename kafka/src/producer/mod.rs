//! Sends records and resolves a receipt for each, when all in-sync replicas have it or when that failed.
//!
//! Never blocks a sender, never resolves a receipt twice, and never sends a record again after its receipt resolved.
//! When librdkafka's idempotent producer meets a fatal error, it is replaced: senders and topics do not notice.

mod courier;
mod generation;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::generation::{Generation, Handle};
use crate::settings::Properties;
use crate::sys::Code;
use crate::{ClientSettings, Completion, DeliveryError, KafkaError, ProducerSettings};

/// How often one call of `send` may find a client that is of no use any more.
const REPLACEMENTS_MAX: usize = 8;

/// Writes records with `acks=all` and idempotence. Cheap to clone; all clones share one client.
///
/// Records of one partition are stored in the order they were sent, as long as their deliveries succeed. When the last
/// clone is dropped, records that are still outstanding are given up: their receipts resolve to
/// [`DeliveryError::Lost`]. Call [`Self::flush`] before.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

/// A topic that a producer writes to. Cheap to clone; goes on working when the producer replaces its client.
#[derive(Clone)]
pub struct Topic {
    slot: Arc<TopicSlot>,
}

struct TopicSlot {
    name: Box<str>,
    /// `None` once the producer is gone.
    handle: ArcSwapOption<Handle>,
}

/// A record to send. Everything is copied by [`Producer::send`].
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where to; made by the same producer.
    pub topic: &'a Topic,
    /// Decides the partition, unless `partition` is given.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub payload: &'a [u8],
    /// Milliseconds since the Unix epoch; `None`: now.
    pub timestamp_ms: Option<i64>,
    /// Names and values, kept in this order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// `None`: the one that Java's default partitioner gives the key, see [`crate::partition_for_key`].
    pub partition: Option<i32>,
}

/// A record was not taken. The completion comes back unsettled.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The bound on outstanding records or bytes is reached. Wait until deliveries complete, then send again.
    #[error(
        "the Kafka producer has as many records outstanding as it may; wait for deliveries and send again"
    )]
    QueueFull(Completion),
    /// This record cannot be taken; what the error says about another attempt holds, see
    /// [`DeliveryError::is_permanent`].
    #[error("{error}")]
    Permanent {
        /// Gives the receipt back to the caller, to be completed or used for another record.
        completion: Completion,
        /// What is wrong.
        error: DeliveryError,
    },
}

/// What all clones of a producer share.
struct Shared {
    properties: Properties,
    /// Held while a client is replaced, so that it happens once.
    state: Mutex<State>,
    client_errors: AtomicU64,
    /// Rings when a client's last outstanding delivery ended.
    idle: Arc<Notify>,
}

struct State {
    current: Arc<Generation>,
    /// Outstanding records of clients that were replaced.
    retired: Vec<Arc<AtomicUsize>>,
    topics: BTreeMap<Box<str>, Topic>,
}

impl Producer {
    /// Starts a producer; no connection is waited for.
    ///
    /// # Errors
    /// [`KafkaError::Config`] for settings that librdkafka does not take.
    pub fn new(client: &ClientSettings, settings: &ProducerSettings) -> Result<Self, KafkaError> {
        let properties = settings.properties(client)?;
        let idle = Arc::new(Notify::new());
        let (current, courier) = Generation::start(&properties, 1, &idle)?;
        let state = State { current, retired: Vec::new(), topics: BTreeMap::new() };
        let shared =
            Arc::new(Shared { properties, state: Mutex::new(state), client_errors: AtomicU64::new(0), idle });
        courier.spawn(&shared)?;
        Ok(Self { shared })
    }

    /// The topic of that name. Each name is looked up once; whether it exists is found out when records are sent.
    ///
    /// # Errors
    /// When no topic can have that name.
    pub fn topic(&self, name: &str) -> Result<Topic, KafkaError> {
        let mut state = self.shared.state.lock();
        if let Some(topic) = state.topics.get(name) {
            return Ok(topic.clone());
        }
        let handle = state.current.handle(name)?;
        let slot = TopicSlot { name: name.into(), handle: ArcSwapOption::from_pointee(handle) };
        let topic = Topic { slot: Arc::new(slot) };
        state.topics.insert(name.into(), topic.clone());
        Ok(topic)
    }

    /// Queues a record; `completion` is settled when its delivery ends, within `delivery_timeout_ms`. Copies key,
    /// payload and headers. Does not block. Sending records of one partition after each other is cheapest.
    ///
    /// # Errors
    /// See [`SendError`]; the completion comes back with it.
    pub fn send(&self, record: Outgoing<'_>, completion: Completion) -> Result<(), SendError> {
        let mut completion = completion;
        for _ in 0..REPLACEMENTS_MAX {
            let (returned, generation) = match attempt(&record, completion)? {
                Sent::Queued => return Ok(()),
                Sent::Fatal { completion, generation } => (completion, generation),
            };
            completion = returned;
            if let Err(error) = self.shared.replace(generation) {
                let error = DeliveryError::Fatal(error.to_string());
                return Err(SendError::Permanent { completion, error });
            }
        }
        Err(SendError::Permanent { completion, error: DeliveryError::Fatal(Code::FATAL.words()) })
    }

    /// Waits until no record is outstanding, at most `deadline`. Returns whether that is so.
    pub async fn flush(&self, deadline: Duration) -> bool {
        let wait = async {
            loop {
                let idle = self.shared.idle.notified();
                tokio::pin!(idle);
                // Listen before looking, or the last delivery could end in between.
                idle.as_mut().enable();
                if self.outstanding() == 0 {
                    return;
                }
                idle.await;
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok() || self.outstanding() == 0
    }

    /// Records whose delivery has not ended; goes down just after their receipts resolved.
    pub fn outstanding(&self) -> usize {
        let state = self.shared.state.lock();
        let counts = state.retired.iter().chain([state.current.outstanding()]);
        counts.map(|count| count.load(Ordering::Acquire)).sum()
    }

    /// The error that the client cannot go on after, until it is replaced; usually for milliseconds. `None`: all well.
    pub fn fatal_error(&self) -> Option<String> {
        let current = Arc::clone(&self.shared.state.lock().current);
        current.client().fatal_error()
    }

    /// Number of the client in use: 1 at first, one more for each replacement after a fatal error.
    pub fn generation(&self) -> u64 {
        self.shared.state.lock().current.number()
    }

    /// Errors that librdkafka reported besides deliveries (connections, authentication), since the start.
    pub fn client_errors(&self) -> u64 {
        self.shared.client_errors.load(Ordering::Relaxed)
    }

    /// Makes the current client believe that it met a fatal error, for fault tests.
    #[doc(hidden)]
    pub fn inject_fatal_error(&self) {
        let current = Arc::clone(&self.shared.state.lock().current);
        current.client().inject_fatal_error();
    }
}

/// What became of a record that was not refused.
enum Sent {
    Queued,
    /// The client of that generation is of no use any more.
    Fatal {
        completion: Completion,
        generation: u64,
    },
}

#[inline]
fn attempt(record: &Outgoing<'_>, completion: Completion) -> Result<Sent, SendError> {
    let guard = record.topic.slot.handle.load();
    let Some(handle) = &*guard else {
        return Err(SendError::Permanent { completion, error: DeliveryError::Lost });
    };
    let Err((completion, code)) = handle.produce(record, completion) else {
        return Ok(Sent::Queued);
    };
    match code {
        Code::QUEUE_FULL => Err(SendError::QueueFull(completion)),
        Code::FATAL => Ok(Sent::Fatal { completion, generation: handle.generation().number() }),
        _ => Err(SendError::Permanent { completion, error: handle.generation().delivery_error(code) }),
    }
}

impl Shared {
    /// Puts a new client in the place of that generation's, unless somebody else has done it.
    fn replace(self: &Arc<Self>, number: u64) -> Result<(), KafkaError> {
        let mut state = self.state.lock();
        if state.current.number() != number {
            return Ok(());
        }
        let why = state.current.client().fatal_error().unwrap_or_default();
        let (next, courier) = Generation::start(&self.properties, number + 1, &self.idle)?;
        let mut handles = Vec::with_capacity(state.topics.len());
        for name in state.topics.keys() {
            handles.push(Arc::new(next.handle(name)?));
        }
        courier.spawn(self)?;
        tracing::error!(
            generation = next.number(),
            why,
            "the Kafka producer met a fatal error and was replaced"
        );
        for (topic, handle) in state.topics.values().zip(handles) {
            topic.slot.handle.store(Some(handle));
        }
        let old = std::mem::replace(&mut state.current, next);
        state.retired.retain(|count| count.load(Ordering::Acquire) > 0);
        state.retired.push(Arc::clone(old.outstanding()));
        drop(state);
        old.retire(Some(why));
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        // Topics may outlive the producer; its clients must not.
        for topic in state.topics.values() {
            topic.slot.handle.store(None);
        }
        state.current.retire(None);
    }
}

impl Topic {
    /// Name of the topic.
    pub fn name(&self) -> &str {
        &self.slot.name
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Topic").field(&self.name()).finish()
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
