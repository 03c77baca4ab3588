//! The thread that reads alerts: polls Kafka, fills a batch while the one before is inserted, commits behind it, answers
//! rebalances. While ClickHouse is away it pauses partitions and goes on polling, so that it stays in the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_kafka::{Batch as KafkaBatch, Consumer, Polled, TopicPartition, go_on};
use penstock_proto::{Invalid, Reason};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Epoch, Original};
use super::insert::{BadRow, Table};
use super::letters::{Post, Posted};
use super::partitions::{Partitions, Seen};
use crate::metrics::Metrics;
use crate::writer::WriterError;
use crate::writer::floors::{Floor, Group};
use crate::writer::gate::Abandoned;

/// Records taken from librdkafka at once.
const POLL_RECORDS_MAX: usize = 500;
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The same while something is under way whose end is to be seen soon.
const POLL_TIMEOUT_BUSY: Duration = Duration::from_millis(10);
/// A full batch waits this long for the one before, before partitions are paused. Pausing throws away what librdkafka has
/// fetched, so a short wait is cheaper.
const PAUSE_AFTER: Duration = Duration::from_millis(1_000);
const OBSERVE_EVERY: Duration = Duration::from_millis(1_000);
/// How long Kafka may take to answer where the thread has to wait for it.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// Answers about what is committed that nobody has looked at yet; there are 24 partitions.
const FLOORS_MAX: usize = 1_024;

/// What [`History`] works with.
pub(in crate::writer) struct Parts {
    pub(super) consumer: Consumer,
    /// The group, as to each topic.
    pub(super) groups: [Arc<Group>; 2],
    pub(super) table: Arc<Table>,
    pub(super) post: Post,
    pub(super) metrics: Metrics,
    pub(super) runtime: Handle,
    pub(super) abort: CancellationToken,
    pub(super) drain_timeout: Duration,
}

/// A batch whose rows are being inserted, then its letters sent.
struct Work {
    batch: Batch,
    /// `None` once the rows are stored.
    inserting: Option<oneshot::Receiver<Result<Vec<BadRow>, Abandoned>>>,
}

/// From where to read a partition.
struct Found {
    partition: TopicPartition,
    epoch: Epoch,
    floor: Floor,
}

/// The consumer of alerts and all that hangs on it.
pub(in crate::writer) struct History {
    parts: Parts,
    partitions: Partitions,
    filling: Batch,
    work: Option<Work>,
    batches: u64,
    /// Partitions of which it has to be asked from where to read.
    closed: Vec<(TopicPartition, Epoch)>,
    found_in: Sender<Found>,
    found: Receiver<Found>,
    /// Partitions that could not be placed yet.
    waiting: Vec<Found>,
    paused: bool,
    full_since: Option<Instant>,
    observed_at: Instant,
    commits_failed: u64,
}

impl History {
    pub(super) fn new(parts: Parts) -> Self {
        let (found_in, found) = channel(FLOORS_MAX);
        Self {
            parts,
            partitions: Partitions::default(),
            filling: Batch::default(),
            work: None,
            batches: 0,
            closed: Vec::new(),
            found_in,
            found,
            waiting: Vec::new(),
            paused: false,
            full_since: None,
            observed_at: Instant::now(),
            commits_failed: 0,
        }
    }

    /// Works until `shutdown`, then stores what there is, commits and leaves the group, within the drain deadline.
    pub(in crate::writer) fn run(mut self, shutdown: &CancellationToken) -> Result<(), WriterError> {
        let worked = self.work(shutdown);
        let drained = self.drain(worked.is_ok());
        worked.and(drained)
    }

    fn work(&mut self, shutdown: &CancellationToken) -> Result<(), WriterError> {
        while !shutdown.is_cancelled() {
            let now = Instant::now();
            self.settle(now)?;
            if self.filling.is_due(now) {
                self.dispatch();
            }
            self.ask();
            self.open()?;
            self.commit()?;
            self.observe(now);
            if self.make_room(now)? {
                self.poll(self.poll_timeout(now))?;
            }
        }
        Ok(())
    }

    /// Begins to insert what was read, unless a batch is under way.
    fn dispatch(&mut self) {
        if self.work.is_some() || self.filling.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.filling);
        self.batches += 1;
        let (body, ends) = (Bytes::from(std::mem::take(&mut batch.body)), std::mem::take(&mut batch.ends));
        let (done_in, done) = oneshot::channel();
        let (table, number) = (Arc::clone(&self.parts.table), self.batches);
        self.parts.runtime.spawn(async move {
            // Nobody is left to hear it once the thread has ended.
            let _ = done_in.send(table.store(body, ends, number).await);
        });
        self.work = Some(Work { batch, inserting: Some(done) });
    }

    /// Takes note of what has come of the batch under way.
    fn settle(&mut self, now: Instant) -> Result<(), WriterError> {
        let Some(mut work) = self.work.take() else { return Ok(()) };
        if let Some(mut inserting) = work.inserting.take() {
            match inserting.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    work.inserting = Some(inserting);
                    self.work = Some(work);
                    return Ok(());
                }
                Err(oneshot::error::TryRecvError::Closed) => return Err(WriterError::Stopped),
                // The writer ends. Nothing of the batch, nor what comes after it, is committed: it is read again.
                Ok(Err(Abandoned)) => {
                    work.batch.next.keys().for_each(|partition| self.partitions.revoke(partition));
                    return Ok(());
                }
                Ok(Ok(bad)) => refuse(&mut work.batch, bad),
            }
        }
        let posted = self.parts.post.drive(&work.batch, &self.parts.consumer, &self.partitions, now);
        match posted.map_err(|error| WriterError::Thread(error.to_string()))? {
            Posted::Waiting => self.work = Some(work),
            Posted::Nothing => self.partitions.stored(&work.batch.next),
            Posted::Committed => {
                let committed = self.partitions.still(&work.batch.next);
                self.partitions.stored(&work.batch.next);
                self.partitions.committed(&committed);
            }
            Posted::Doubt => {
                // Storing alerts twice changes nothing: whatever is committed, reading goes on from there.
                let doubted = self.partitions.still(&work.batch.next);
                let doubted: Vec<_> = doubted.into_iter().map(|(partition, _)| partition).collect();
                go_on("pause partitions", self.parts.consumer.pause(&doubted))?;
                self.close(&doubted);
            }
        }
        Ok(())
    }

    /// It is to be found out from where these partitions are to be read.
    fn close(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            let epoch = self.partitions.assign(partition);
            self.closed.push((partition.clone(), epoch));
        }
    }

    /// Asks from where closed partitions are to be read, beside this thread. That cannot be said while a transaction
    /// may change it.
    fn ask(&mut self) {
        if self.closed.is_empty() || self.parts.post.is_under_way() {
            return;
        }
        let closed = std::mem::take(&mut self.closed);
        for group in &self.parts.groups {
            let numbered = |(partition, epoch): &(TopicPartition, Epoch)| {
                (partition.topic == group.topic)
                    .then(|| Some((u16::try_from(partition.partition).ok()?, *epoch)))?
            };
            let epochs: BTreeMap<u16, Epoch> = closed.iter().filter_map(numbered).collect();
            if epochs.is_empty() {
                continue;
            }
            let (group, found_in) = (Arc::clone(group), self.found_in.clone());
            let (backoff, abort) = (self.parts.table.backoff(), self.parts.abort.clone());
            let work = async move {
                let numbers: Vec<u16> = epochs.keys().copied().collect();
                for (number, floor) in group.floors(&numbers, backoff).await {
                    let Some(epoch) = epochs.get(&number).copied() else { continue };
                    let partition = TopicPartition::new(Arc::clone(&group.topic), number.into());
                    // Without a receiver the writer has ended.
                    let _ = found_in.send(Found { partition, epoch, floor }).await;
                }
            };
            self.parts.runtime.spawn(async move {
                tokio::select! {
                    biased;
                    () = abort.cancelled() => {}
                    () = work => {}
                }
            });
        }
    }

    /// Begins to read partitions of which it is known from where.
    fn open(&mut self) -> Result<(), WriterError> {
        while let Ok(found) = self.found.try_recv() {
            self.waiting.push(found);
        }
        let mut reachable = true;
        for found in std::mem::take(&mut self.waiting) {
            if !self.partitions.is_current(&found.partition, found.epoch) {
                continue;
            }
            let placed = if reachable { self.place(&found) } else { None };
            let Some(next) = placed else {
                // The others would wait for the same broker, one after the other.
                reachable = false;
                self.waiting.push(found);
                continue;
            };
            let Found { partition, floor, .. } = found;
            self.partitions.open(&partition, next, floor.letters);
            if !self.paused {
                go_on("read a partition", self.parts.consumer.resume(&[partition]))?;
            }
        }
        Ok(())
    }

    fn place(&mut self, found: &Found) -> Option<i64> {
        let consumer = &mut self.parts.consumer;
        let next = match found.floor.offset {
            Some(next) => Ok(next),
            None => consumer.watermarks(&found.partition, PLACE_TIMEOUT).map(|(low, _)| low),
        };
        let placed = next
            .and_then(|next| consumer.seek(&[(found.partition.clone(), next)], PLACE_TIMEOUT).map(|()| next));
        placed
            .inspect_err(|error| {
                tracing::warn!(
                    partition = found.partition.partition,
                    topic = &*found.partition.topic,
                    "cannot go back to the committed offset yet: {error}"
                );
            })
            .ok()
    }

    fn poll_timeout(&self, now: Instant) -> Duration {
        let busy = self.work.is_some() || self.partitions.is_opening();
        let timeout = if busy { POLL_TIMEOUT_BUSY } else { POLL_TIMEOUT };
        self.filling.age_left(now).filter(|_| !busy).map_or(timeout, |left| left.min(timeout))
    }

    /// Waits for the batch under way if the next one is full, and pauses partitions if that takes long. Returns whether
    /// to poll.
    fn make_room(&mut self, now: Instant) -> Result<bool, WriterError> {
        if !self.filling.is_full() {
            self.full_since = None;
            self.set_paused(false)?;
            return Ok(true);
        }
        let full_since = *self.full_since.get_or_insert(now);
        if !self.paused && now.saturating_duration_since(full_since) < PAUSE_AFTER {
            std::thread::sleep(POLL_TIMEOUT_BUSY);
            return Ok(false);
        }
        self.set_paused(true)?;
        Ok(true)
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), WriterError> {
        if self.paused == paused {
            return Ok(());
        }
        let partitions = self.partitions.opened();
        if paused {
            tracing::info!("alerts cannot be stored: reading them pauses until there is room");
            go_on("pause partitions", self.parts.consumer.pause(&partitions))?;
        } else {
            tracing::info!("alerts are stored again: reading them goes on");
            go_on("resume partitions", self.parts.consumer.resume(&partitions))?;
        }
        self.paused = paused;
        self.parts.metrics.alerts().paused(paused);
        Ok(())
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), WriterError> {
        let (partitions, lost) = match self.parts.consumer.poll(POLL_RECORDS_MAX, timeout)? {
            Polled::Idle => return Ok(()),
            Polled::Records(records) => {
                let topics = self.parts.groups.each_ref().map(|group| &group.topic);
                ingest(&records, topics, &mut self.partitions, &mut self.filling);
                return Ok(());
            }
            Polled::Assigned(partitions) => (partitions, None),
            Polled::Revoked { partitions, lost } => (partitions, Some(lost)),
        };
        match lost {
            None => self.assigned(&partitions),
            Some(lost) => self.revoked(&partitions, lost),
        }
    }

    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), WriterError> {
        tracing::info!(partitions = partitions.len(), "partitions of alerts assigned");
        // Where to read is settled when they are opened.
        let offsets: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
        go_on("take up partitions", self.parts.consumer.assign_done_at(&offsets))?;
        go_on("pause partitions", self.parts.consumer.pause(partitions))?;
        self.close(partitions);
        Ok(())
    }

    /// Stores and commits what was read of the partitions before they are given up, so that the next owner reads nothing
    /// twice. If that takes too long, or they are lost already, it stores it again, which changes nothing.
    fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<(), WriterError> {
        tracing::info!(partitions = partitions.len(), lost, "partitions of alerts revoked");
        if !lost {
            let deadline = Instant::now() + self.parts.drain_timeout;
            self.flush(deadline, |history| {
                !history.filling.holds(partitions)
                    && history.work.as_ref().is_none_or(|work| !work.batch.holds(partitions))
            })?;
            self.commit_sync();
        }
        self.forget(partitions);
        Ok(go_on("give up partitions", self.parts.consumer.revoke_done(partitions))?)
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.closed.retain(|(partition, _)| !partitions.contains(partition));
        for partition in partitions {
            self.partitions.revoke(partition);
            self.parts.metrics.alerts().lag_gone(partition);
        }
    }

    /// Goes on with what there is until `done` says so, or until the deadline.
    fn flush(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> Result<(), WriterError> {
        loop {
            self.settle(Instant::now())?;
            self.dispatch();
            // No transaction begins while a commit is on its way, and without polling nobody hears how that ended.
            let held_up = self.work.as_ref().is_some_and(|work| work.inserting.is_none())
                && !self.parts.post.is_under_way()
                && self.parts.consumer.commits_in_flight() > 0;
            if done(self) || held_up {
                return Ok(());
            }
            if Instant::now() >= deadline {
                tracing::warn!("alerts are not stored in time; whoever reads on stores them");
                return Ok(());
            }
            std::thread::sleep(POLL_TIMEOUT_BUSY);
        }
    }

    fn commit(&mut self) -> Result<(), WriterError> {
        let counts = self.parts.consumer.commit_counts();
        if counts.failed != self.commits_failed {
            self.commits_failed = counts.failed;
            self.partitions.commit_failed();
        }
        if self.parts.post.is_under_way() || self.parts.consumer.commits_in_flight() > 0 {
            return Ok(());
        }
        let offsets = self.partitions.committable();
        if !offsets.is_empty() {
            go_on("commit offsets", self.parts.consumer.commit_async(&offsets))?;
            self.partitions.committed(&offsets);
        }
        Ok(())
    }

    /// Commits and waits for the answer. A failure costs nothing but alerts that are stored again.
    fn commit_sync(&mut self) {
        self.partitions.commit_failed();
        let offsets = self.partitions.committable();
        // A transaction that is under way commits them, or is refused: a commit beside it could hide its offsets.
        if offsets.is_empty() || self.parts.post.is_under_way() {
            return;
        }
        match self.parts.consumer.commit_sync(&offsets, KAFKA_TIMEOUT) {
            Ok(()) => self.partitions.committed(&offsets),
            Err(error) => tracing::warn!("offsets of alerts are not committed: {error}"),
        }
    }

    fn observe(&mut self, now: Instant) {
        if now.saturating_duration_since(self.observed_at) < OBSERVE_EVERY {
            return;
        }
        self.observed_at = now;
        for (partition, next) in self.partitions.stored_below() {
            if let Some((_, high)) = self.parts.consumer.cached_watermarks(partition) {
                self.parts.metrics.alerts().lag(partition, (high - next).max(0));
            }
        }
    }

    /// Stores what there is, if `store`, commits what is stored, and leaves the group.
    fn drain(&mut self, store: bool) -> Result<(), WriterError> {
        let started = Instant::now();
        if store {
            let deadline = started + self.parts.drain_timeout * 4 / 5;
            self.flush(deadline, |history| history.filling.is_empty() && history.work.is_none())?;
        }
        // Nothing may be tried any longer: what is not committed is stored again.
        if !self.parts.abort.is_cancelled() {
            self.commit_sync();
        }
        let left = self.parts.consumer.leave(started + self.parts.drain_timeout + KAFKA_TIMEOUT)?;
        self.forget(&left);
        Ok(())
    }
}

/// Takes up records that are new.
fn ingest(
    records: &KafkaBatch<'_>,
    topics: [&Arc<str>; 2],
    partitions: &mut Partitions,
    filling: &mut Batch,
) {
    let now = Instant::now();
    for record in records {
        let Some(topic) = topics.into_iter().find(|topic| ***topic == *record.topic) else { continue };
        let partition = TopicPartition::new(Arc::clone(topic), record.partition);
        let epoch = match partitions.see(&partition, record.offset) {
            Seen::Stale => continue,
            Seen::Letter(epoch) => {
                filling.passed(&partition, epoch, record.offset, now);
                continue;
            }
            Seen::New(epoch) => epoch,
        };
        let original = Original {
            partition,
            epoch,
            offset: record.offset,
            key: record.key.map(Bytes::copy_from_slice),
            payload: Bytes::copy_from_slice(record.payload),
        };
        filling.add(original, record.is_tombstone, record.timestamp_ms, now);
    }
}

/// Rows that ClickHouse does not take become letters.
fn refuse(batch: &mut Batch, bad: Vec<BadRow>) {
    for (row, why) in bad {
        if let Some(original) = batch.originals.get(row) {
            let invalid = Invalid::new(Reason::RefusedByStorage, why);
            batch.letters.push(original.clone().refuse(invalid));
        }
    }
}
