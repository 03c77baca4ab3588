//! Dead letters: records that cannot become rows go to the storage-failures topic, in one Kafka transaction with the
//! offsets that pass them. So each is there exactly once: before the transaction is committed nobody sees it and it is
//! read again, afterwards it is never read again; and a writer whose partitions have moved commits neither.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use penstock_kafka::{
    ClientSettings, DeliveryError, GroupMetadata, TopicPartition, TransactionError, TransactionRecord,
    TransactionSettings, TransactionalProducer,
};
use penstock_proto::topics::header;
use tokio_util::sync::CancellationToken;

use crate::batch::Refused;

/// How long one call to Kafka may take before it is looked whether to go on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Calls that Kafka was not ready for are made again this often before the transaction is given up.
const CALLS_MAX: usize = 6;
/// What a writer that died left open is aborted after this long. Until then the partitions' next owner waits.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Letters and next offsets, in one transaction.
    Transact {
        letters: Vec<Arc<Refused>>,
        next: Vec<(TopicPartition, i64)>,
        member: GroupMetadata,
        /// Without payloads and keys: the records were too large for the topic.
        short: bool,
    },
    /// Opens a producer, which ends whatever the one before has left.
    Settle,
}

/// How a transaction ended.
#[derive(Debug)]
pub(super) enum Posted {
    /// Letters and offsets are committed.
    Committed,
    /// Neither is.
    Failed(TransactionError),
    /// Both are, or neither: the committed offsets say which, once another producer was opened.
    Unsure(TransactionError),
    /// Another producer was opened.
    Settled,
}

/// Sends letters on a thread of its own, one transaction at a time. The thread starts with the first.
#[derive(Debug)]
pub(super) struct Letters {
    post: Post,
    jobs: Option<SyncSender<Job>>,
    posted: Option<Receiver<Posted>>,
    settled: bool,
}

impl Letters {
    /// Nothing is connected yet. Records come from `source_topic` and go to `topic`; `transactional_id` must be this
    /// process's alone.
    pub(super) fn new(
        client: ClientSettings,
        topic: String,
        source_topic: String,
        transactional_id: String,
        abort: CancellationToken,
    ) -> Self {
        let post = Post { client, topic, source_topic, transactional_id, abort };
        Self { post, jobs: None, posted: None, settled: true }
    }

    /// Hands a job to the thread. The one before must have ended.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn send(&mut self, job: Job) -> Result<(), std::io::Error> {
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_ok()
        {
            return Ok(());
        }
        Err(std::io::Error::other("the thread that sends dead letters has ended"))
    }

    /// Starts the thread unless it runs.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(&mut self) -> Result<(), std::io::Error> {
        if self.jobs.is_some() {
            return Ok(());
        }
        let (jobs_in, jobs) = sync_channel(1);
        let (posted_in, posted) = sync_channel(1);
        let post = self.post.clone();
        std::thread::Builder::new().name("penstock-letters".to_owned()).spawn(move || {
            let mut producer = None;
            while let Ok(job) = jobs.recv() {
                let posted = post.post(&mut producer, &job);
                if posted_in.send(posted).is_err() {
                    break;
                }
            }
        })?;
        (self.jobs, self.posted) = (Some(jobs_in), Some(posted));
        Ok(())
    }

    /// Whether nothing is left open by a producer whose end is not known.
    pub(super) const fn is_settled(&self) -> bool {
        self.settled
    }

    /// How the job ended; `None` while it is under way.
    pub(super) fn ended(&mut self) -> Option<Posted> {
        match self.posted.as_ref()?.try_recv() {
            Ok(posted) => {
                self.settled = !matches!(posted, Posted::Unsure(_))
                    && (self.settled || matches!(posted, Posted::Settled));
                Some(posted)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                (self.jobs, self.posted, self.settled) = (None, None, false);
                let why = "the thread that sends dead letters has ended".to_owned();
                Some(Posted::Unsure(TransactionError::Fatal { code: "thread".to_owned(), why }))
            }
        }
    }
}

/// The thread's side.
#[derive(Clone, Debug)]
struct Post {
    client: ClientSettings,
    topic: String,
    source_topic: String,
    transactional_id: String,
    abort: CancellationToken,
}

impl Post {
    fn post(&self, slot: &mut Option<TransactionalProducer>, job: &Job) -> Posted {
        let Job::Transact { letters, next, member, short } = job else {
            *slot = None;
            return match self.open() {
                Ok(producer) => {
                    *slot = Some(producer);
                    Posted::Settled
                }
                Err(error) => Posted::Unsure(error),
            };
        };
        let producer = match slot {
            Some(producer) => producer,
            None => match self.open() {
                Ok(producer) => slot.insert(producer),
                Err(error) => return Posted::Failed(error),
            },
        };
        let posted = self.transact(producer, letters, next, member, *short);
        if let Posted::Failed(error) | Posted::Unsure(error) = &posted
            && (error.is_fatal() || matches!(posted, Posted::Unsure(_)))
        {
            // The next one to be opened settles what this one has left.
            *slot = None;
        }
        posted
    }

    fn open(&self) -> Result<TransactionalProducer, TransactionError> {
        let settings = TransactionSettings {
            transactional_id: self.transactional_id.clone(),
            timeout: TRANSACTION_TIMEOUT,
            ..TransactionSettings::default()
        };
        TransactionalProducer::open(&self.client, &settings, TRANSACTION_TIMEOUT + PATIENCE)
    }

    fn transact(
        &self,
        producer: &mut TransactionalProducer,
        letters: &[Arc<Refused>],
        next: &[(TopicPartition, i64)],
        member: &GroupMetadata,
        short: bool,
    ) -> Posted {
        let mut transaction = match producer.begin() {
            Ok(transaction) => transaction,
            Err(error) => return Posted::Failed(error),
        };
        let filled =
            letters.iter().try_for_each(|letter| match self.letter(&mut transaction, letter, !short) {
                Err(TransactionError::Record(DeliveryError::TooLarge)) if !short => {
                    self.letter(&mut transaction, letter, false)
                }
                sent => sent,
            });
        let filled = filled.and_then(|()| again(|| transaction.send_offsets(next, member, PATIENCE)));
        if let Err(error) = filled {
            // If it cannot be aborted now, beginning the next one does it first.
            let _ = again(|| transaction.abort(PATIENCE));
            return Posted::Failed(error);
        }
        loop {
            match transaction.commit(PATIENCE) {
                Ok(()) => return Posted::Committed,
                Err(error) if error.is_retriable() && !self.abort.is_cancelled() => {
                    tracing::warn!("the commit of dead letters has no outcome yet: {error}");
                }
                Err(error) if error.requires_abort() => {
                    let _ = again(|| transaction.abort(PATIENCE));
                    return Posted::Failed(error);
                }
                Err(error) => return Posted::Unsure(error),
            }
        }
    }

    fn letter(
        &self,
        transaction: &mut penstock_kafka::Transaction<'_>,
        refused: &Refused,
        whole: bool,
    ) -> Result<(), TransactionError> {
        let (partition, offset) = (refused.partition.to_string(), refused.offset.to_string());
        let detail = detail(refused, whole);
        let headers: [(&str, &[u8]); 5] = [
            (header::REASON, refused.invalid.reason.name().as_bytes()),
            (header::DETAIL, detail.as_bytes()),
            (header::SOURCE_TOPIC, self.source_topic.as_bytes()),
            (header::SOURCE_PARTITION, partition.as_bytes()),
            (header::SOURCE_OFFSET, offset.as_bytes()),
        ];
        let payload: &[u8] = if whole { &refused.payload } else { &[] };
        let record = TransactionRecord {
            key: refused.key.as_deref().filter(|_| whole),
            headers: &headers,
            ..TransactionRecord::new(&self.topic, payload)
        };
        again(|| transaction.send(&record))
    }
}

/// Makes a call again while Kafka is not ready for it, a bounded number of times.
fn again(mut call: impl FnMut() -> Result<(), TransactionError>) -> Result<(), TransactionError> {
    for _ in 1..CALLS_MAX {
        match call() {
            Err(error) if error.is_retriable() => {}
            result => return result,
        }
    }
    call()
}

fn detail(refused: &Refused, whole: bool) -> String {
    let Refused { payload, invalid, .. } = refused;
    if whole {
        return invalid.detail.to_string();
    }
    format!(
        "{} (the value of {} bytes is too large for this topic: read it at its source)",
        invalid.detail,
        payload.len()
    )
}
