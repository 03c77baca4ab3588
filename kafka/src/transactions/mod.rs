//! Transactions: records and consumed offsets that become visible together, or not at all.
//!
//! Never retries on behalf of the caller beyond the time that a call is given, and never says that a transaction is
//! committed or aborted before Kafka has said so. All calls block: make them on a thread of their own, or in
//! `tokio::task::spawn_blocking`.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use penstock_kafka::{Consumer, TopicPartition, TransactionError, TransactionRecord, TransactionalProducer};
//! # fn step(
//! #     producer: &mut TransactionalProducer,
//! #     consumer: &Consumer,
//! #     next: &[(TopicPartition, i64)],
//! # ) -> Result<(), TransactionError> {
//! const PATIENCE: Duration = Duration::from_secs(5);
//! let Some(member) = consumer.group_metadata() else { return Ok(()) };
//! let mut transaction = producer.begin()?;
//! let alert = TransactionRecord { key: Some(b"device"), ..TransactionRecord::new("alerts", b"{}") };
//! transaction.send(&alert)?;
//! transaction.send_offsets(next, &member, PATIENCE)?;
//! loop {
//!     match transaction.commit(PATIENCE) {
//!         // Nothing is lost by asking again; a shutdown would stop here and drop the producer.
//!         Err(error) if error.is_retriable() => continue,
//!         result => return result,
//!     }
//! }
//! # }
//! ```

mod error;
mod outbox;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

pub use self::error::TransactionError;
pub use self::outbox::{Outbox, OwnedRecord, Parcel, Sent};
use crate::sys::{Code, Content, Failure, TopicHandle, TransactionClient};
use crate::{ClientSettings, DeliveryError, TopicPartition, TransactionSettings};

/// Records between two looks at the deliveries.
const POLL_EVERY: u32 = 64;
/// One wait for room in the queue.
const ROOM_WAIT: Duration = Duration::from_millis(50);
/// How long dropping an unfinished transaction may try to abort it.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);
/// Why nothing but a commit is possible.
const COMMIT_BEGUN: &str = "its commit was begun and has no outcome yet: only commit can be called";

/// A membership of a consumer group at one time, from [`crate::Consumer::group_metadata`]: plain data, to be taken to
/// whatever thread the transaction is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    pub(crate) group: String,
    pub(crate) generation: i32,
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
}

impl GroupMetadata {
    /// Name of the group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Which generation of the group: goes up with every rebalance.
    pub const fn generation(&self) -> i32 {
        self.generation
    }
}

/// A record for [`Transaction::send`], which copies everything.
#[derive(Clone, Copy, Debug)]
pub struct TransactionRecord<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Decides the partition, unless `partition` is given.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone: in a compacted topic it deletes what was there for the key.
    pub payload: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; `None`: now.
    pub timestamp_ms: Option<i64>,
    /// Names and values, kept in this order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// `None`: the one that Java's default partitioner gives the key, see [`crate::partition_for_key`].
    pub partition: Option<i32>,
}

impl<'a> TransactionRecord<'a> {
    /// A record without key, headers and time.
    pub const fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self { topic, key: None, payload: Some(payload), timestamp_ms: None, headers: &[], partition: None }
    }
}

/// Writes transactions under one transactional id, one at a time; the only producer that can, from when it was opened
/// until another is opened with the id.
///
/// Dropping it with a transaction open (only a [`Transaction`] that was leaked is still open then) leaves that to the
/// next producer with the id, or to the coordinator after [`TransactionSettings::timeout`].
pub struct TransactionalProducer {
    /// Before the client, because they are dropped first.
    topics: BTreeMap<Box<str>, TopicHandle>,
    client: TransactionClient,
    timeout: Duration,
    state: State,
    /// Records since the last look at deliveries.
    unpolled: u32,
}

/// Where the client is between two calls.
#[derive(Clone, Debug)]
enum State {
    /// No transaction.
    Idle,
    Open(Contents),
    /// librdkafka takes no other call until this one has an outcome.
    Committing,
    /// As above.
    Aborting,
    /// The client is of no use any more.
    Failed(TransactionError),
}

/// What is known about an open transaction.
#[derive(Clone, Debug, Default)]
struct Contents {
    /// Offsets were to be sent and are not: without them it must not be committed.
    lacks_offsets: bool,
    /// It can only be aborted.
    failed: Option<TransactionError>,
}

impl TransactionalProducer {
    /// Starts a client and ends every earlier producer with the transactional id: a transaction that one of them left
    /// open is aborted, and one whose commit the coordinator had accepted is completed before this returns. Blocks for
    /// up to `timeout`; one transaction timeout and a few seconds more are always enough while Kafka is well.
    ///
    /// # Errors
    /// [`TransactionError::Invalid`] for settings that librdkafka does not take, an empty transactional id, or
    /// properties that carry a guarantee. [`TransactionError::Retry`] when Kafka was not ready within `timeout`: call
    /// again. [`TransactionError::Fenced`] when another producer was opened meanwhile, [`TransactionError::Fatal`] for
    /// what Kafka refuses (authorization, a transaction timeout above the broker's limit).
    pub fn open(
        client: &ClientSettings,
        settings: &TransactionSettings,
        timeout: Duration,
    ) -> Result<Self, TransactionError> {
        let client = TransactionClient::new(&settings.properties(client)?)?;
        client.init(timeout).map_err(|failure| TransactionError::of(failure, None))?;
        Ok(Self {
            topics: BTreeMap::new(),
            client,
            timeout: settings.timeout,
            state: State::Idle,
            unpolled: 0,
        })
    }

    /// Begins a transaction. Asks nobody, so it does not block; unless the one before was dropped and could not be
    /// aborted then: that is done first, within [`TransactionSettings::timeout`].
    ///
    /// # Errors
    /// [`TransactionError::Retry`] when the transaction before is not aborted yet. [`TransactionError::Fatal`] when it
    /// was dropped while its commit had no outcome: whether it is committed is then found out by opening another
    /// producer and reading the committed offsets with `read_committed`. Every error after which this producer is of
    /// no use is returned again by each later call.
    pub fn begin(&mut self) -> Result<Transaction<'_>, TransactionError> {
        match &self.state {
            State::Idle => {}
            State::Open(_) | State::Aborting => self.abort(self.timeout)?,
            State::Committing => {
                let why = "the transaction before was dropped while its commit had no outcome".to_owned();
                return Err(self.fail(TransactionError::Fatal { code: Code::STATE.name(), why }));
            }
            State::Failed(error) => return Err(error.clone()),
        }
        self.client.begin().map_err(|failure| self.explain(failure))?;
        self.state = State::Open(Contents::default());
        Ok(Transaction { producer: self })
    }

    /// The error after which this producer is of no use any more, if a call has met one.
    pub const fn fatal_error(&self) -> Option<&TransactionError> {
        match &self.state {
            State::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Remembers errors that end the producer, and those that leave nothing but an abort.
    fn explain(&mut self, failure: Failure) -> TransactionError {
        let error = TransactionError::of(failure, self.client.undelivered());
        self.fail(error)
    }

    fn fail(&mut self, error: TransactionError) -> TransactionError {
        if error.is_fatal() {
            self.state = State::Failed(error.clone());
        } else if error.requires_abort() && !matches!(self.state, State::Aborting) {
            self.state = State::Open(Contents { failed: Some(error.clone()), ..Contents::default() });
        }
        error
    }

    /// What is open and can be added to.
    fn contents(&mut self) -> Result<&mut Contents, TransactionError> {
        match &mut self.state {
            State::Open(Contents { failed: Some(error), .. }) | State::Failed(error) => Err(error.clone()),
            State::Open(contents) => Ok(contents),
            State::Committing => Err(TransactionError::OutOfOrder(COMMIT_BEGUN)),
            State::Aborting => Err(TransactionError::OutOfOrder("its abort was begun")),
            State::Idle => Err(TransactionError::OutOfOrder("it has ended")),
        }
    }

    fn send(&mut self, record: &TransactionRecord<'_>) -> Result<(), TransactionError> {
        self.contents()?;
        let content = Content {
            key: record.key,
            payload: record.payload,
            timestamp_ms: record.timestamp_ms,
            headers: record.headers,
            partition: record.partition,
        };
        self.unpolled += 1;
        if self.unpolled >= POLL_EVERY {
            self.unpolled = 0;
            self.client.poll(Duration::ZERO);
        }
        let topic = match self.topics.get(record.topic) {
            Some(topic) => topic,
            None => self.topics.entry(record.topic.into()).or_insert(self.client.topic(record.topic)?),
        };
        let begin = Instant::now();
        loop {
            let Err(code) = self.client.produce(topic, &content) else { return Ok(()) };
            if code != Code::QUEUE_FULL || begin.elapsed() >= self.timeout {
                return Err(self.not_taken(code));
            }
            self.client.poll(ROOM_WAIT);
        }
    }

    /// Why a record was not taken.
    fn not_taken(&mut self, code: Code) -> TransactionError {
        if let Some(fatal) = self.client.fatal() {
            return self.explain(fatal);
        }
        if code == Code::STATE {
            // The transaction failed in the background: a record was not delivered, or its partition not registered.
            self.client.poll(Duration::ZERO);
            let why = "it has failed since its last call".to_owned();
            let error = TransactionError::abortable(code, why, self.client.undelivered());
            return self.fail(error);
        }
        if code == Code::QUEUE_FULL {
            return TransactionError::Retry { code: code.name(), why: "no room for another record".into() };
        }
        TransactionError::Record(DeliveryError::of(code))
    }

    fn send_offsets(
        &mut self,
        next_offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), TransactionError> {
        self.contents()?;
        if let Some((partition, offset)) = next_offsets.iter().find(|(_, offset)| *offset < 0) {
            // librdkafka would leave it out without a word.
            return Err(Code::INVALID_ARG.error(&format!("send offset {offset} of {partition}")).into());
        }
        let sent = self.client.send_offsets(next_offsets, group, timeout)?;
        let result = sent.map_err(|failure| self.explain(failure));
        if let State::Open(contents) = &mut self.state {
            contents.lacks_offsets = result.is_err();
        }
        result
    }

    fn commit(&mut self, timeout: Duration) -> Result<(), TransactionError> {
        if !matches!(self.state, State::Committing) && self.contents()?.lacks_offsets {
            return Err(TransactionError::OutOfOrder(
                "its offsets were not taken yet: send them again, or abort",
            ));
        }
        self.state = State::Committing;
        self.client.commit(timeout).map_err(|failure| self.explain(failure))?;
        self.state = State::Idle;
        Ok(())
    }

    fn abort(&mut self, timeout: Duration) -> Result<(), TransactionError> {
        match &self.state {
            State::Open(_) | State::Aborting => {}
            State::Committing => return Err(TransactionError::OutOfOrder(COMMIT_BEGUN)),
            State::Idle => return Err(TransactionError::OutOfOrder("it has ended")),
            State::Failed(error) => return Err(error.clone()),
        }
        self.state = State::Aborting;
        self.client.abort(timeout).map_err(|failure| self.explain(failure))?;
        self.state = State::Idle;
        Ok(())
    }
}

/// A transaction: what is sent in it becomes visible to readers with `read_committed` when [`Self::commit`] came back
/// with `Ok`, all of it together.
///
/// Dropped without an end, it is aborted: that blocks for up to 1 s, and if Kafka has not answered by then, the next
/// [`TransactionalProducer::begin`] goes on with it. Dropped while a commit has no outcome, nothing is done.
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'p> {
    producer: &'p mut TransactionalProducer,
}

impl Transaction<'_> {
    /// Adds a record. Returns before it is delivered: a delivery that fails makes a later call, at the latest
    /// [`Self::commit`], fail with [`TransactionError::Abortable`]. Waits while
    /// [`TransactionSettings::queue_bytes_max`] is reached, for at most [`TransactionSettings::timeout`].
    ///
    /// # Errors
    /// [`TransactionError::Record`] when the record is too large for any topic of this client, or its partition is not
    /// one; [`TransactionError::Invalid`] for what cannot be the name of a topic; in both cases the transaction goes on
    /// without the record. [`TransactionError::Retry`] when no room was made for it. Otherwise see
    /// [`TransactionError`].
    pub fn send(&mut self, record: &TransactionRecord<'_>) -> Result<(), TransactionError> {
        self.producer.send(record)
    }

    /// Makes offsets of a consumer group part of the transaction: each number is the offset of the next record to
    /// read. Kafka checks that `group` is a member of the group's present generation.
    ///
    /// `timeout` bounds how long librdkafka tries again. When a broker does not answer at all, this ends only with
    /// [`TransactionSettings::timeout`].
    ///
    /// # Errors
    /// [`TransactionError::GroupFenced`] when the membership is over. [`TransactionError::Retry`]: call again with the
    /// same arguments, or abort; until then [`Self::commit`] refuses, so that records are never committed without
    /// their offsets. [`TransactionError::Invalid`] for a negative offset. Otherwise see [`TransactionError`].
    pub fn send_offsets(
        &mut self,
        next_offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), TransactionError> {
        self.producer.send_offsets(next_offsets, group, timeout)
    }

    /// Waits until every record is delivered, then commits; at most `timeout`. `Ok` means committed: on all in-sync
    /// replicas of the coordinator, whatever happens to this process or to Kafka. Readers see the records as soon as
    /// the coordinator has written a marker into each partition, which is some milliseconds later.
    ///
    /// # Errors
    /// [`TransactionError::Retry`]: the outcome is not known yet. librdkafka goes on with the commit by itself; calling
    /// this again resumes it, and comes back with the outcome once there is one. Until then nothing else can be done
    /// with this transaction: not even an abort, since Kafka may have committed it. A caller that does not want to wait
    /// any longer drops the producer; opening another with the same id settles the matter, and the committed offsets,
    /// read with `read_committed`, say how.
    ///
    /// [`TransactionError::Abortable`] or [`TransactionError::GroupFenced`]: not committed; abort.
    ///
    /// [`TransactionError::Fenced`] or [`TransactionError::Fatal`]: usually not committed. It is, if an attempt that
    /// was not answered (of this call, or of librdkafka within it) had reached the coordinator before; here too the
    /// committed offsets say so to whoever opens the next producer.
    pub fn commit(&mut self, timeout: Duration) -> Result<(), TransactionError> {
        self.producer.commit(timeout)
    }

    /// Gives up what was not sent yet and aborts; at most `timeout`. `Ok` means that nothing of this transaction ever
    /// becomes visible to readers with `read_committed`, that its offsets are as they were, and that the producer is
    /// good for another.
    ///
    /// # Errors
    /// [`TransactionError::Retry`]: not done yet; calling this again resumes it. The transaction cannot be committed
    /// any more in any case. [`TransactionError::OutOfOrder`] while a commit has no outcome. Otherwise see
    /// [`TransactionError`].
    pub fn abort(&mut self, timeout: Duration) -> Result<(), TransactionError> {
        self.producer.abort(timeout)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if matches!(self.producer.state, State::Open(_) | State::Aborting)
            && let Err(error) = self.producer.abort(DROP_TIMEOUT)
        {
            tracing::warn!(%error, "a transaction was dropped and is not aborted yet");
        }
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("state", &self.producer.state).finish_non_exhaustive()
    }
}

impl fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionalProducer").field("state", &self.state).finish_non_exhaustive()
    }
}
