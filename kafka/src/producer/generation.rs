//! One librdkafka client of a producer, from its start until its last delivery has been reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Outgoing;
use super::courier::Courier;
use crate::settings::Properties;
use crate::sys::{Client, Code, Queue, TopicHandle};
use crate::{Completion, DeliveryError, KafkaError};

pub(super) struct Generation {
    number: u64,
    client: Arc<Client>,
    /// Wakes the courier.
    queue: Queue,
    /// Outlives the generation in the producer's sum.
    outstanding: Arc<AtomicUsize>,
    retired: AtomicBool,
    /// The fatal error that ended this client, if that is what ended it.
    why: Mutex<Option<String>>,
    idle: Arc<Notify>,
}

impl Generation {
    /// Starts a client. Its deliveries are reported once the courier is spawned.
    pub(super) fn start(
        properties: &Properties,
        number: u64,
        idle: &Arc<Notify>,
    ) -> Result<(Arc<Self>, Courier), KafkaError> {
        let client = Arc::new(Client::producer(properties)?);
        let queue = || Queue::main(&client).ok_or_else(|| Code::INVALID_ARG.error("open the delivery queue"));
        let (queue, courier_queue) = (queue()?, queue()?);
        let generation = Arc::new(Self {
            number,
            client,
            queue,
            outstanding: Arc::default(),
            retired: AtomicBool::new(false),
            why: Mutex::new(None),
            idle: Arc::clone(idle),
        });
        let courier = Courier::new(Arc::clone(&generation), courier_queue);
        Ok((generation, courier))
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(super) const fn outstanding(&self) -> &Arc<AtomicUsize> {
        &self.outstanding
    }

    /// Deliveries ended; their receipts are resolved.
    pub(super) fn ended(&self, deliveries: usize) {
        if deliveries > 0 && self.outstanding.fetch_sub(deliveries, Ordering::AcqRel) == deliveries {
            self.idle.notify_waiters();
        }
    }

    /// Ends this client: what is outstanding is given up, and the courier stops when all of it is reported.
    pub(super) fn retire(&self, why: Option<String>) {
        if let Some(why) = why {
            self.why.lock().get_or_insert(why);
        }
        self.retired.store(true, Ordering::Release);
        self.queue.wake();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn handle(self: &Arc<Self>, topic: &str) -> Result<Handle, KafkaError> {
        Ok(Handle { topic: TopicHandle::new(&self.client, topic)?, generation: Arc::clone(self) })
    }

    /// What a code of librdkafka means for a record.
    pub(super) fn delivery_error(&self, code: Code) -> DeliveryError {
        if code == Code::FATAL || code.is_purged() {
            let fatal = self.why.lock().clone().or_else(|| self.client.fatal_error());
            return fatal.map_or(DeliveryError::Lost, DeliveryError::Fatal);
        }
        DeliveryError::of(code)
    }
}

/// A topic of one generation.
pub(super) struct Handle {
    topic: TopicHandle,
    generation: Arc<Generation>,
}

impl Handle {
    pub(super) fn generation(&self) -> &Generation {
        &self.generation
    }

    #[inline]
    pub(super) fn produce(
        &self,
        record: &Outgoing<'_>,
        completion: Completion,
    ) -> Result<(), (Completion, Code)> {
        // Counted before librdkafka has it, because its delivery may end before this call does.
        self.generation.outstanding.fetch_add(1, Ordering::AcqRel);
        self.topic.produce(record, completion).inspect_err(|_| self.generation.ended(1))
    }
}
