//! Transactions on a thread of their own: whoever polls a consumer must not wait for them.
//!
//! A transaction ends in one of three ways. *Committed* and *failed* are certain. *Unsure* is what is left when Kafka
//! stops answering in the middle of a commit: then the outbox has to be settled, which replaces the producer and so ends
//! whatever the one before has left; afterwards nothing can change any more, and what is committed can be read.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{GroupMetadata, Transaction, TransactionError, TransactionRecord, TransactionalProducer};
use crate::{ClientSettings, TopicPartition, TransactionSettings};

/// How long one call to Kafka may take before it is looked whether to go on.
const PATIENCE: Duration = Duration::from_secs(5);
/// No call of librdkafka may take longer: the longest that has an end of its own is opening a producer. One that does is
/// left behind with its thread, and another producer is opened in its place, which fences it.
const HUNG_AFTER: Duration = Duration::from_secs(60);
/// Calls that Kafka was not ready for are made again this often before the transaction is given up.
const CALLS_MAX: usize = 6;

/// A record that owns what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// `None`: the one that Java's default partitioner gives the key.
    pub partition: Option<i32>,
    /// Decides the partition, unless that is given.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Names and values, kept in this order.
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

/// Records, and the next offsets that are committed with them: all of it, or nothing.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The records, in order.
    pub records: Vec<Arc<OwnedRecord>>,
    /// Next offset to be read, by partition.
    pub next: Vec<(TopicPartition, i64)>,
    /// Whose offsets these are. Kafka refuses the whole if the group has gone on without this member.
    pub member: GroupMetadata,
}

/// How a transaction ended.
#[derive(Debug)]
pub enum Sent {
    /// Records and offsets are committed.
    Committed,
    /// Nothing is. The same can be sent again, unless the error [is permanent](TransactionError::Record) or says that
    /// the partitions are [another's](TransactionError::GroupFenced).
    Failed(TransactionError),
    /// All is, or nothing: it is to be found out after [`Outbox::settle`].
    Unsure(TransactionError),
    /// Nothing is left open any more.
    Settled,
}

enum Job {
    Send(Parcel),
    Settle,
}

/// Sends parcels on a thread of its own, one at a time. The thread starts with the first. Dropping the outbox lets the
/// thread end after what it is at.
pub struct Outbox {
    post: Post,
    jobs: Option<SyncSender<Job>>,
    sent: Option<Receiver<Sent>>,
    settled: bool,
    under_way: bool,
    hung_after: Duration,
}

impl Outbox {
    /// Nothing is connected yet. The transactional id must be this process's alone. Once `abort` is cancelled,
    /// commits without an outcome are waited for no longer.
    pub fn new(client: ClientSettings, settings: TransactionSettings, abort: CancellationToken) -> Self {
        let post = Post { client, settings, abort, pulse: Arc::new(Mutex::new(Instant::now())) };
        Self { post, jobs: None, sent: None, settled: true, under_way: false, hung_after: HUNG_AFTER }
    }

    /// Begins to send a parcel. What was begun before must have [ended](Self::ended).
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn send(&mut self, parcel: Parcel) -> Result<(), std::io::Error> {
        self.begin(Job::Send(parcel))
    }

    /// Begins to replace the producer, which ends whatever it has left open.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn settle(&mut self) -> Result<(), std::io::Error> {
        self.begin(Job::Settle)
    }

    fn begin(&mut self, job: Job) -> Result<(), std::io::Error> {
        debug_assert!(!self.under_way, "one at a time");
        self.start()?;
        self.post.beat();
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            return Err(std::io::Error::other("the thread that sends transactions has ended"));
        }
        self.under_way = true;
        Ok(())
    }

    fn start(&mut self) -> Result<(), std::io::Error> {
        if self.jobs.is_some() {
            return Ok(());
        }
        let (jobs_in, jobs) = sync_channel(1);
        let (sent_in, sent) = sync_channel(1);
        let post = self.post.clone();
        std::thread::Builder::new().name("penstock-outbox".to_owned()).spawn(move || {
            let mut producer = None;
            while let Ok(job) = jobs.recv() {
                if sent_in.send(post.work(&mut producer, &job)).is_err() {
                    break;
                }
            }
        })?;
        (self.jobs, self.sent) = (Some(jobs_in), Some(sent));
        Ok(())
    }

    /// Whether something was begun whose end was not told yet.
    pub const fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Whether nothing is left open by a producer whose end is not known.
    pub const fn is_settled(&self) -> bool {
        self.settled
    }

    /// Goes on without the thread, which librdkafka holds.
    fn leave_behind(&mut self) -> Sent {
        (self.jobs, self.sent) = (None, None);
        // The thread keeps the old one.
        self.post.pulse = Arc::new(Mutex::new(Instant::now()));
        let why = format!("librdkafka has not come back for {:?}", self.hung_after);
        tracing::error!("a transaction is left behind, another producer takes its place: {why}");
        Sent::Unsure(TransactionError::Fatal { code: "hung".to_owned(), why })
    }

    /// How what was begun has ended; `None` while it is under way. Told once.
    pub fn ended(&mut self) -> Option<Sent> {
        let sent = match self.sent.as_ref().filter(|_| self.under_way)?.try_recv() {
            Ok(sent) => sent,
            Err(TryRecvError::Empty) if self.post.pulse.lock().elapsed() < self.hung_after => return None,
            Err(TryRecvError::Empty) => self.leave_behind(),
            Err(TryRecvError::Disconnected) => {
                (self.jobs, self.sent) = (None, None);
                let why = "the thread that sends transactions has ended".to_owned();
                Sent::Unsure(TransactionError::Fatal { code: "thread".to_owned(), why })
            }
        };
        self.under_way = false;
        match sent {
            Sent::Unsure(_) => self.settled = false,
            Sent::Settled => self.settled = true,
            Sent::Committed | Sent::Failed(_) => {}
        }
        Some(sent)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("transactional_id", &self.post.settings.transactional_id)
            .field("under_way", &self.under_way)
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}

/// The thread's side.
#[derive(Clone)]
struct Post {
    client: ClientSettings,
    settings: TransactionSettings,
    abort: CancellationToken,
    /// When the thread last came back from librdkafka.
    pulse: Arc<Mutex<Instant>>,
}

impl Post {
    fn beat(&self) {
        *self.pulse.lock() = Instant::now();
    }

    fn work(&self, slot: &mut Option<TransactionalProducer>, job: &Job) -> Sent {
        let Job::Send(parcel) = job else {
            *slot = None;
            return match self.open() {
                Ok(producer) => {
                    *slot = Some(producer);
                    Sent::Settled
                }
                Err(error) => Sent::Unsure(error),
            };
        };
        let producer = match slot {
            Some(producer) => producer,
            None => match self.open() {
                Ok(producer) => slot.insert(producer),
                Err(error) => return Sent::Failed(error),
            },
        };
        let sent = self.transact(producer, parcel);
        if let Sent::Failed(error) | Sent::Unsure(error) = &sent
            && (error.is_fatal() || matches!(sent, Sent::Unsure(_)))
        {
            // The next one to be opened settles what this one has left.
            *slot = None;
        }
        sent
    }

    fn open(&self) -> Result<TransactionalProducer, TransactionError> {
        self.beat();
        TransactionalProducer::open(&self.client, &self.settings, self.settings.timeout + PATIENCE)
    }

    fn transact(&self, producer: &mut TransactionalProducer, parcel: &Parcel) -> Sent {
        self.beat();
        let mut transaction = match producer.begin() {
            Ok(transaction) => transaction,
            Err(error) => return Sent::Failed(error),
        };
        if let Err(error) = self.fill(&mut transaction, parcel) {
            // If it cannot be aborted now, beginning the next one does it first.
            let _ = self.again(|| transaction.abort(PATIENCE));
            return Sent::Failed(error);
        }
        loop {
            self.beat();
            match transaction.commit(PATIENCE) {
                Ok(()) => return Sent::Committed,
                Err(error) if error.is_retriable() && !self.abort.is_cancelled() => {
                    tracing::warn!("the commit of a transaction has no outcome yet: {error}");
                }
                Err(error) if error.requires_abort() => {
                    let _ = self.again(|| transaction.abort(PATIENCE));
                    return Sent::Failed(error);
                }
                Err(error) => return Sent::Unsure(error),
            }
        }
    }

    fn fill(&self, transaction: &mut Transaction<'_>, parcel: &Parcel) -> Result<(), TransactionError> {
        for record in &parcel.records {
            let headers: Vec<(&str, &[u8])> =
                record.headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
            let record = TransactionRecord {
                topic: &record.topic,
                key: record.key.as_deref(),
                payload: record.payload.as_deref(),
                timestamp_ms: None,
                headers: &headers,
                partition: record.partition,
            };
            self.again(|| transaction.send(&record))?;
        }
        self.again(|| transaction.send_offsets(&parcel.next, &parcel.member, PATIENCE))
    }

    /// Makes a call again while Kafka is not ready for it, a bounded number of times.
    fn again(&self, mut call: impl FnMut() -> Result<(), TransactionError>) -> Result<(), TransactionError> {
        for _ in 1..CALLS_MAX {
            self.beat();
            match call() {
                Err(error) if error.is_retriable() => {}
                result => return result,
            }
        }
        self.beat();
        call()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_librdkafka_holds_is_left_behind() {
        let client = ClientSettings {
            brokers: "127.0.0.1:1".to_owned(),
            client_id: "test".to_owned(),
            properties: std::collections::BTreeMap::new(),
        };
        let mut outbox = Outbox::new(client, TransactionSettings::default(), CancellationToken::new());
        outbox.hung_after = Duration::from_millis(50);
        // A thread that takes the job and says nothing more.
        let (jobs_in, jobs) = sync_channel(1);
        let (_sent_in, sent) = sync_channel(1);
        (outbox.jobs, outbox.sent) = (Some(jobs_in), Some(sent));
        outbox.settle().unwrap();
        assert!(jobs.recv().is_ok() && outbox.ended().is_none() && outbox.is_under_way());
        while outbox.is_under_way() {
            if let Some(sent) = outbox.ended() {
                assert!(matches!(sent, Sent::Unsure(TransactionError::Fatal { .. })), "{sent:?}");
            }
        }
        assert!(!outbox.is_settled(), "another producer has to take its place");
    }
}
