//! The consumer's thread: polls Kafka, fills batches, commits behind stored ones, answers rebalances.
//!
//! Completed inserts are looked at before new records. It never stops polling for long: while inserts are behind it
//! pauses partitions, so that Kafka keeps this writer in the group and memory stays flat. A partition stays paused from
//! its assignment until it is opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_kafka::{Consumer, KafkaError, Polled, TopicPartition, go_on};
use penstock_service::config::Writer;
use penstock_service::health::Health;
use tokio_util::sync::CancellationToken;

use super::WriterError;
use super::assignment::Assignment;
use super::opening::Opened;
use super::pipe::Pipe;
use super::posting::Posting;
use super::store::Store;
use crate::metrics::Metrics;
use crate::offsets::Offsets;

/// Records taken from librdkafka at once.
const POLL_RECORDS_MAX: usize = 2_000;
/// How long a poll waits for the first record.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The same while inserts are under way, whose ends are to be seen soon.
const POLL_TIMEOUT_BUSY: Duration = Duration::from_millis(10);
/// A full batch waits this long for an insert to end before partitions are paused. Pausing throws away what librdkafka
/// has fetched, so a short wait is cheaper.
const PAUSE_AFTER: Duration = Duration::from_millis(1_000);
/// Offsets are committed this often.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// Lag and the like are looked at this often.
const OBSERVE_EVERY: Duration = Duration::from_millis(1_000);
/// How long Kafka may take to say whether it is back, while the thread waits.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long Kafka may take to answer where the thread has to wait for it.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// What a poll asks for besides taking records.
enum Event {
    Assigned(Vec<TopicPartition>),
    Revoked { partitions: Vec<TopicPartition>, lost: bool },
}

/// The consumer and all that hangs on it.
pub(super) struct Consume {
    consumer: Consumer,
    topic: Arc<str>,
    pipe: Pipe,
    assignment: Assignment,
    posting: Posting,
    health: Health,
    metrics: Metrics,
    covered: Covered,
    /// Opened partitions that cannot be read yet: the batch still holds records of an earlier assignment of theirs, or
    /// Kafka cannot be reached.
    waiting: Vec<Opened>,
    store: Arc<Store>,
    drain_timeout: Duration,
    paused: bool,
    full_since: Option<Instant>,
    committed_at: Instant,
    observed_at: Instant,
    commits_failed: u64,
}

/// Next offset to be stored of each partition, for whoever works on what is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Covered(Arc<parking_lot::Mutex<Vec<(u16, u64)>>>);

impl Covered {
    /// As of a second ago at most.
    pub(super) fn get(&self) -> Vec<(u16, u64)> {
        self.0.lock().clone()
    }

    fn set(&self, offsets: &Offsets) {
        let narrow =
            |(partition, next): (i32, i64)| Some((u16::try_from(partition).ok()?, u64::try_from(next).ok()?));
        *self.0.lock() = offsets.stored_below().filter_map(narrow).collect();
    }
}

/// What the consumer's thread works with.
pub(super) struct Parts {
    pub(super) consumer: Consumer,
    pub(super) topic: Arc<str>,
    pub(super) pipe: Pipe,
    pub(super) assignment: Assignment,
    pub(super) posting: Posting,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) covered: Covered,
    pub(super) store: Arc<Store>,
}

impl Consume {
    pub(super) fn new(parts: Parts, config: &Writer) -> Self {
        let Parts { consumer, topic, pipe, assignment, posting, health, metrics, covered, store } = parts;
        let now = Instant::now();
        Self {
            consumer,
            topic,
            pipe,
            assignment,
            posting,
            health,
            metrics,
            covered,
            waiting: Vec::new(),
            store,
            drain_timeout: Duration::from_millis(config.drain_timeout_ms),
            paused: false,
            full_since: None,
            committed_at: now,
            observed_at: now,
            commits_failed: 0,
        }
    }

    /// Works until `shutdown`, then stores what there is, commits and leaves the group, within the drain deadline.
    pub(super) fn run(mut self, shutdown: &CancellationToken) -> Result<(), WriterError> {
        let worked = self.work(shutdown);
        let drained = self.drain(worked.is_ok());
        worked.and(drained)
    }

    fn work(&mut self, shutdown: &CancellationToken) -> Result<(), WriterError> {
        while !shutdown.is_cancelled() {
            let now = Instant::now();
            self.settle(now)?;
            self.pipe.dispatch_if_due(now);
            // What a partition's letters and committed offset are is not known while a transaction may change them.
            if !self.posting.is_under_way() {
                self.assignment.drive();
            }
            self.opened()?;
            self.commit(now)?;
            self.observe(now);
            if !self.make_room(now)? {
                continue;
            }
            let timeout = self.poll_timeout(now);
            self.poll(timeout)?;
        }
        Ok(())
    }

    /// Takes note of inserts and transactions that ended, and of partitions that were claimed by others.
    fn settle(&mut self, now: Instant) -> Result<(), WriterError> {
        self.pipe.reap()?;
        for (partition, fenced) in self.pipe.take_lost() {
            self.close(partition, fenced)?;
        }
        let topic = Arc::clone(&self.topic);
        let named = |number| TopicPartition::new(Arc::clone(&topic), number);
        let posted = self.posting.drive(&mut self.pipe, &self.consumer, named, now);
        posted.map_err(|error| WriterError::Thread(error.to_string()))
    }

    /// A partition is given up to be taken over anew: the outcome of an insert is not known, or another writer has
    /// claimed it (`fenced`). Then it is left alone for a while: if Kafka has moved it, this writer hears of that.
    fn close(&mut self, partition: i32, fenced: bool) -> Result<(), WriterError> {
        if fenced {
            tracing::warn!(partition, "another writer has claimed a partition of this one");
        }
        self.metrics.closed();
        self.give_up(partition);
        go_on("pause a partition", self.consumer.pause(&[self.partition(partition)]))?;
        let epoch = self.pipe.offsets.assign(partition);
        self.assignment.begin_again(partition, epoch, fenced);
        Ok(())
    }

    /// Begins to read partitions that were opened.
    fn opened(&mut self) -> Result<(), WriterError> {
        while let Some(opened) = self.assignment.next_opened() {
            self.waiting.push(opened);
        }
        let mut reachable = true;
        for opened in std::mem::take(&mut self.waiting) {
            let (number, epoch) = (i32::from(opened.closed.partition), opened.closed.epoch);
            if !self.pipe.offsets.is_current(number, epoch) {
                continue;
            }
            // A batch never holds records of two assignments of a partition: it would store the same record twice.
            if !reachable || self.pipe.is_filling(number) {
                self.waiting.push(opened);
                continue;
            }
            if let Err(error) = self.assignment.place(&mut self.consumer, &opened) {
                tracing::warn!(partition = number, "cannot go back to the committed offset yet: {error}");
                // The others would wait for the same broker, one after the other.
                reachable = false;
                self.waiting.push(opened);
                continue;
            }
            if let Some(claim) = opened.claim {
                self.store.claims.hold(opened.closed.partition, epoch, claim);
            }
            self.pipe.offsets.open(number, epoch, opened.floor, opened.already);
            if !self.paused {
                go_on("read a partition", self.consumer.resume(&[self.partition(number)]))?;
            }
        }
        Ok(())
    }

    fn give_up(&self, partition: i32) {
        if let Ok(partition) = u16::try_from(partition) {
            self.store.claims.give_up(partition);
        }
    }

    fn poll_timeout(&self, now: Instant) -> Duration {
        let busy = self.pipe.is_storing() || self.posting.is_under_way() || self.assignment.is_opening();
        let timeout = if busy { POLL_TIMEOUT_BUSY } else { POLL_TIMEOUT };
        match self.pipe.age_left(now) {
            // Due, and waiting for an insert to end.
            Some(left) if left.is_zero() => timeout,
            Some(left) => left.min(timeout),
            None => timeout,
        }
    }

    /// Waits for an insert to end if the batch is full, and pauses partitions if that takes long. Returns whether to
    /// poll.
    fn make_room(&mut self, now: Instant) -> Result<bool, WriterError> {
        if !self.pipe.is_full() {
            self.full_since = None;
            self.set_paused(false)?;
            return Ok(true);
        }
        let full_since = *self.full_since.get_or_insert(now);
        if self.paused {
            return Ok(true);
        }
        if now.saturating_duration_since(full_since) < PAUSE_AFTER {
            self.pipe.wait(Duration::from_millis(50))?;
            return Ok(false);
        }
        self.set_paused(true)?;
        Ok(true)
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), WriterError> {
        if self.paused == paused {
            return Ok(());
        }
        let partitions: Vec<_> =
            self.pipe.offsets.open_partitions().map(|number| self.partition(number)).collect();
        if paused {
            tracing::info!("inserts are behind: reading pauses until there is room");
            go_on("pause partitions", self.consumer.pause(&partitions))?;
        } else {
            tracing::info!("inserts have caught up: reading goes on");
            go_on("resume partitions", self.consumer.resume(&partitions))?;
        }
        self.paused = paused;
        Ok(())
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), WriterError> {
        let event = match self.consumer.poll(POLL_RECORDS_MAX, timeout)? {
            Polled::Idle => return Ok(()),
            Polled::Records(records) => {
                self.pipe.ingest(&records);
                return Ok(());
            }
            Polled::Assigned(partitions) => Event::Assigned(partitions),
            Polled::Revoked { partitions, lost } => Event::Revoked { partitions, lost },
        };
        match event {
            Event::Assigned(partitions) => self.assigned(&partitions),
            Event::Revoked { partitions, lost: false } => self.revoked(&partitions),
            Event::Revoked { partitions, lost: true } => self.lost(&partitions),
        }
    }

    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), WriterError> {
        tracing::info!(partitions = partitions.len(), "partitions assigned");
        self.metrics.rebalanced("assigned");
        // Where to read is settled when they are opened.
        let offsets: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
        go_on("take up partitions", self.consumer.assign_done_at(&offsets))?;
        go_on("pause partitions", self.consumer.pause(partitions))?;
        for partition in partitions {
            let epoch = self.pipe.offsets.assign(partition.partition);
            self.assignment.begin(partition.partition, epoch);
        }
        Ok(())
    }

    /// Stores and commits what was read of the partitions before they are given up, so that the next owner reads
    /// nothing twice. If that takes too long they are given up all the same: the next owner reads it again.
    fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<(), WriterError> {
        tracing::info!(partitions = partitions.len(), "partitions revoked");
        self.metrics.rebalanced("revoked");
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.partition).collect();
        let deadline = Instant::now() + self.drain_timeout;
        if !self.flush(deadline, |pipe| pipe.is_done_with(&numbers))? {
            tracing::warn!(
                "rows of revoked partitions are not stored in time; their next owner reads them again"
            );
        }
        self.commit_sync();
        self.forget(&numbers);
        Ok(go_on("give up partitions", self.consumer.revoke_done(partitions))?)
    }

    /// Another writer may have the partitions already: nothing of them is committed, and what is not under way yet is
    /// not inserted.
    fn lost(&mut self, partitions: &[TopicPartition]) -> Result<(), WriterError> {
        tracing::warn!(partitions = partitions.len(), "partitions lost: this writer was silent for too long");
        self.metrics.rebalanced("lost");
        self.health.suspect();
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.partition).collect();
        self.forget(&numbers);
        Ok(go_on("give up partitions", self.consumer.revoke_done(partitions))?)
    }

    fn forget(&mut self, partitions: &[i32]) {
        self.assignment.forget(partitions);
        for partition in partitions {
            self.pipe.offsets.revoke(*partition);
            self.give_up(*partition);
            self.metrics.lag_gone(*partition);
        }
        self.covered.set(&self.pipe.offsets);
    }

    /// Sends off what there is and waits until `done` says so, or until the deadline. Returns what `done` says.
    fn flush(&mut self, deadline: Instant, done: impl Fn(&Pipe) -> bool) -> Result<bool, WriterError> {
        loop {
            self.settle(Instant::now())?;
            if self.pipe.has_slot() {
                self.pipe.dispatch();
            }
            if done(&self.pipe) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.pipe.wait(left.min(Duration::from_millis(20)))?;
        }
    }

    fn commit(&mut self, now: Instant) -> Result<(), WriterError> {
        if now.saturating_duration_since(self.committed_at) < COMMIT_EVERY {
            return Ok(());
        }
        self.committed_at = now;
        let counts = self.consumer.commit_counts();
        self.metrics.commits(counts.done, counts.failed);
        if counts.failed != self.commits_failed {
            self.commits_failed = counts.failed;
            self.pipe.offsets.commit_failed();
        }
        let offsets = self.pipe.offsets.committable();
        if offsets.is_empty() || self.posting.is_under_way() || self.posting.waits_for_commits() {
            return Ok(());
        }
        go_on("commit offsets", self.consumer.commit_async(&self.named(&offsets)))?;
        self.pipe.offsets.committed(&offsets);
        Ok(())
    }

    /// Commits and waits for the answer. A failure costs nothing but records that are read again.
    fn commit_sync(&mut self) {
        // An earlier commit may still be on its way: what it holds is committed once more.
        self.pipe.offsets.commit_failed();
        let offsets = self.pipe.offsets.committable();
        // A transaction that is under way commits them, or is refused: a commit beside it could hide its offsets.
        if offsets.is_empty() || self.posting.is_under_way() {
            return;
        }
        match self.consumer.commit_sync(&self.named(&offsets), KAFKA_TIMEOUT) {
            Ok(()) => self.pipe.offsets.committed(&offsets),
            Err(error) => {
                tracing::warn!("offsets are not committed, their records will be read again: {error}")
            }
        }
    }

    fn observe(&mut self, now: Instant) {
        self.metrics.paused(self.paused || self.assignment.is_opening());
        if now.saturating_duration_since(self.observed_at) < OBSERVE_EVERY {
            self.metrics.buffered_bytes(self.pipe.buffered_bytes());
            return;
        }
        self.observed_at = now;
        self.covered.set(&self.pipe.offsets);
        let (consumer, probed) = (&self.consumer, self.partition(0));
        self.health.look(consumer.errors(), || {
            let asked = consumer.watermarks(&probed, PROBE_TIMEOUT).map(drop);
            asked.map_err(|error| consumer.last_error().cloned().unwrap_or(error))
        });
        for (number, next) in self.pipe.offsets.stored_below() {
            if let Some((_, high)) = self.consumer.cached_watermarks(&self.partition(number)) {
                self.metrics.lag(number, (high - next).max(0));
            }
        }
    }

    /// Stores what there is, if `store`, commits what is stored, and leaves the group.
    fn drain(&mut self, store: bool) -> Result<(), WriterError> {
        let started = Instant::now();
        if store && !self.flush(started + self.drain_timeout * 4 / 5, Pipe::is_idle)? {
            tracing::warn!("not all rows could be stored before the deadline; they will be read again");
        }
        self.commit_sync();
        let left = self.consumer.leave(started + self.drain_timeout + KAFKA_TIMEOUT)?;
        let numbers: Vec<i32> = left.iter().map(|partition| partition.partition).collect();
        self.forget(&numbers);
        let counts = self.consumer.commit_counts();
        self.metrics.commits(counts.done, counts.failed);
        self.metrics.buffered_bytes(0);
        Ok(())
    }

    fn named(&self, offsets: &[(i32, i64)]) -> Vec<(TopicPartition, i64)> {
        offsets.iter().map(|(number, next)| (self.partition(*number), *next)).collect()
    }

    fn partition(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), number)
    }
}

impl From<KafkaError> for WriterError {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}
