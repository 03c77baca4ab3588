//! Dead letters as the consumer's thread sees them: when a transaction can begin, and what follows from its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_kafka::{
    Consumer, DeliveryError, KafkaError, Outbox, Parcel, Sent, TopicPartition, TransactionError,
};
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;

use super::letters::Letters;
use super::pipe::Pipe;
use crate::metrics::Metrics;
use crate::offsets::Ripe;

/// How long Kafka may take to say what is committed, while the thread waits.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to ask how a transaction ended; twice as long as one can last.
const UNSURE_MAX: Duration = Duration::from_secs(25);

/// Sends the letters of stored batches, one transaction at a time.
#[derive(Debug)]
pub(super) struct Posting {
    letters: Letters,
    outbox: Outbox,
    metrics: Metrics,
    condition: Condition,
    backoff: Backoff,
    retry_at: Option<Instant>,
    under_way: Option<Ripe>,
    /// A transaction whose end is not known: the committed offsets say, once its producer is replaced.
    unsure: Option<Ripe>,
    unsure_since: Option<Instant>,
    /// Letters go without their payloads: the topic does not take them.
    short: bool,
    /// Letters wait until no commit is under way.
    waits_for_commits: bool,
}

impl Posting {
    pub(super) fn new(letters: Letters, outbox: Outbox, metrics: Metrics, backoff: Backoff) -> Self {
        Self {
            letters,
            outbox,
            metrics,
            condition: Condition::new("storing records in the storage-failures topic"),
            backoff,
            retry_at: None,
            under_way: None,
            unsure: None,
            unsure_since: None,
            short: false,
            waits_for_commits: false,
        }
    }

    /// Whether a transaction may change committed offsets: nothing else must commit then.
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way.is_some() || self.unsure.is_some()
    }

    /// Whether dead letters wait until no commit is under way any more: then no further one must begin.
    pub(super) const fn waits_for_commits(&self) -> bool {
        self.waits_for_commits
    }

    /// Takes note of a transaction that ended, and begins the next.
    pub(super) fn drive(
        &mut self,
        pipe: &mut Pipe,
        consumer: &Consumer,
        named: impl Fn(i32) -> TopicPartition,
        now: Instant,
    ) -> Result<(), std::io::Error> {
        if let Some(ripe) = self.under_way.take() {
            match self.outbox.ended() {
                None => {
                    self.under_way = Some(ripe);
                    return Ok(());
                }
                Some(sent) => self.ended(pipe, ripe, sent, now),
            }
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        if let Some(ripe) = self.unsure.take()
            && !self.settle(pipe, consumer, &named, ripe, now)?
        {
            return Ok(());
        }
        self.begin(pipe, consumer, &named)
    }

    fn begin(
        &mut self,
        pipe: &mut Pipe,
        consumer: &Consumer,
        named: &impl Fn(i32) -> TopicPartition,
    ) -> Result<(), std::io::Error> {
        self.waits_for_commits = false;
        let Some(ripe) = pipe.offsets.ripe() else { return Ok(()) };
        let letters = pipe.letters_of(&ripe);
        if letters.is_empty() {
            // Their partitions have moved: their next owner reads those records again.
            pipe.letters_done(&ripe, false);
            return Ok(());
        }
        // An older commit that arrives late must not overwrite what the transaction commits.
        self.waits_for_commits = consumer.commits_in_flight() > 0;
        let (false, Some(member)) = (self.waits_for_commits, consumer.group_metadata()) else {
            return Ok(());
        };
        let next = ripe.next.iter().map(|reached| (named(reached.partition), reached.next)).collect();
        let records =
            letters.iter().map(|letter| Arc::new(self.letters.write(letter, !self.short))).collect();
        self.outbox.send(Parcel { records, next, member })?;
        self.under_way = Some(ripe);
        Ok(())
    }

    fn ended(&mut self, pipe: &mut Pipe, ripe: Ripe, sent: Sent, now: Instant) {
        let error = match sent {
            Sent::Committed => {
                pipe.letters_done(&ripe, true);
                self.condition.worked();
                self.backoff.reset();
                self.short = false;
                return;
            }
            Sent::Settled => {
                // Asked for by `settle`, which goes on with it.
                self.unsure = Some(ripe);
                self.retry_at = None;
                return;
            }
            Sent::Failed(error) => error,
            Sent::Unsure(error) => {
                self.unsure = Some(ripe);
                error
            }
        };
        if let TransactionError::Abortable { delivery: Some(DeliveryError::TooLarge), .. }
        | TransactionError::Record(DeliveryError::TooLarge) = &error
        {
            self.short = true;
        }
        self.condition.failed(error.kind(), false, &error);
        self.metrics.storage_failures_retried();
        self.retry_at = Some(now + self.backoff.next());
    }

    /// Finds out how a transaction ended: by replacing its producer, then by the committed offsets. Returns whether
    /// that is known now.
    fn settle(
        &mut self,
        pipe: &mut Pipe,
        consumer: &Consumer,
        named: &impl Fn(i32) -> TopicPartition,
        ripe: Ripe,
        now: Instant,
    ) -> Result<bool, std::io::Error> {
        if !self.outbox.is_settled() {
            self.outbox.settle()?;
            self.under_way = Some(ripe);
            return Ok(false);
        }
        let telling: Vec<(TopicPartition, i64)> =
            pipe.offsets.telling(&ripe).into_iter().map(|(number, next)| (named(number), next)).collect();
        let since = *self.unsure_since.get_or_insert(now);
        match is_committed(consumer, &telling) {
            Ok(committed) => {
                self.unsure_since = None;
                if committed {
                    pipe.letters_done(&ripe, true);
                    self.condition.worked();
                }
                Ok(true)
            }
            Err(error) if now.saturating_duration_since(since) >= UNSURE_MAX => {
                tracing::warn!("it cannot be found out whether dead letters are committed: {error}");
                // Taken over anew, their partitions are looked at one by one.
                self.unsure_since = None;
                let unsure: Vec<i32> = telling.iter().map(|(partition, _)| partition.partition).collect();
                pipe.give_up(&unsure);
                pipe.letters_done(&ripe, false);
                Ok(true)
            }
            Err(error) => {
                tracing::info!("it is not known yet whether dead letters are committed: {error}");
                self.unsure = Some(ripe);
                self.retry_at = Some(now + self.backoff.next());
                Ok(false)
            }
        }
    }
}

/// Whether the offsets of a transaction are committed: all of them are, or none. Without any, nothing depends on it.
fn is_committed(consumer: &Consumer, next: &[(TopicPartition, i64)]) -> Result<bool, KafkaError> {
    if next.is_empty() {
        return Ok(false);
    }
    let partitions: Vec<TopicPartition> = next.iter().map(|(partition, _)| partition.clone()).collect();
    let committed = consumer.committed(&partitions, COMMITTED_TIMEOUT)?;
    let reached = |(partition, next): &(TopicPartition, i64)| {
        committed
            .iter()
            .any(|(found, offset)| found == partition && offset.is_some_and(|offset| offset >= *next))
    };
    Ok(next.iter().any(reached))
}
