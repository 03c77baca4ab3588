//! The consumer's thread: polls Kafka, applies rules, hands over what is to be written, answers rebalances.
//!
//! Ended transactions are looked at before new records. A partition stays paused from its assignment until its state is
//! restored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use penstock_kafka::{Consumer, KafkaError, Polled, TopicPartition, go_on};
use penstock_service::config::{Alerts, AlertsStart};
use penstock_service::health::Health;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::AlerterError;
use super::dispatch::{Dispatch, Lives};
use super::ends::Ends;
use super::live::{Counts, Epoch, Live};
use super::restore::{Closed, Restored, Restorer};
use crate::metrics::Metrics;
use crate::rules::RuleSet;

/// Records taken from librdkafka at once.
const POLL_RECORDS_MAX: usize = 2_000;
/// How long a poll waits for the first record.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The same while a transaction is under way, whose end is to be seen soon.
const POLL_TIMEOUT_BUSY: Duration = Duration::from_millis(2);
/// Alerts that wait for a transaction; with more, reading pauses.
const WAITING_MAX: usize = 20_000;
/// Time goes on this often for rules about silence.
const TIME_EVERY: Duration = Duration::from_millis(200);
/// Lag and the like are looked at this often.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// How far the group has come is committed this often, for people who look at its lag. What is read again after a crash
/// does not depend on it.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// How long Kafka may take to say whether it is back, or to move the consumer, while the thread waits.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long Kafka may take to let the alerter leave its group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Restored partitions that wait to be opened.
const RESTORED_MAX: usize = 4;

/// What a poll asks for besides taking records.
enum Event {
    Assigned(Vec<TopicPartition>),
    Revoked { partitions: Vec<TopicPartition>, lost: bool },
}

/// What the thread works with.
pub(super) struct Parts {
    pub(super) consumer: Consumer,
    pub(super) topic: Arc<str>,
    pub(super) dispatch: Dispatch,
    pub(super) restorer: Restorer,
    pub(super) ends: Ends,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) rules: watch::Receiver<Arc<RuleSet>>,
    /// Ends what goes on beside the thread.
    pub(super) abort: CancellationToken,
}

/// The consumer and all that hangs on it.
pub(super) struct Consume {
    parts: Parts,
    lives: Lives,
    /// Assigned partitions that are not read yet.
    closed: BTreeMap<i32, Epoch>,
    /// Those of them that are about to be restored.
    waiting: Vec<Closed>,
    /// Restored partitions that cannot be read yet.
    restored: Vec<Restored>,
    restored_in: SyncSender<Restored>,
    restored_out: Receiver<Restored>,
    next_epoch: u64,
    start: AlertsStart,
    checkpoint_every: Duration,
    grace_ms: i64,
    drain_timeout: Duration,
    paused: bool,
    timed_at: Instant,
    observed_at: Instant,
    committed_at: Instant,
}

impl Consume {
    pub(super) fn new(parts: Parts, config: &Alerts) -> Self {
        let now = Instant::now();
        let (restored_in, restored_out) = sync_channel(RESTORED_MAX);
        Self {
            parts,
            lives: Lives::new(),
            closed: BTreeMap::new(),
            waiting: Vec::new(),
            restored: Vec::new(),
            restored_in,
            restored_out,
            next_epoch: 0,
            start: config.start,
            checkpoint_every: Duration::from_millis(config.checkpoint_every_ms),
            grace_ms: i64::try_from(config.no_data_grace_ms).unwrap_or(i64::MAX),
            drain_timeout: Duration::from_millis(config.drain_timeout_ms),
            paused: false,
            timed_at: now,
            observed_at: now,
            committed_at: now,
        }
    }

    /// Works until `shutdown`, then stores what there is and leaves the group, within the drain deadline.
    pub(super) fn run(mut self, shutdown: &CancellationToken) -> Result<(), AlerterError> {
        let worked = self.work(shutdown);
        let drained = self.drain(worked.is_ok());
        worked.and(drained)
    }

    fn work(&mut self, shutdown: &CancellationToken) -> Result<(), AlerterError> {
        while !shutdown.is_cancelled() {
            let now = Instant::now();
            self.adopt();
            self.settle(now)?;
            self.restore()?;
            self.open(now)?;
            self.time(now);
            self.observe(now)?;
            self.make_room()?;
            self.poll()?;
        }
        Ok(())
    }

    /// Puts other rules in force, if there are any.
    fn adopt(&mut self) {
        if self.parts.rules.has_changed().unwrap_or(false) {
            let rules = Arc::clone(&self.parts.rules.borrow_and_update());
            self.lives.values_mut().for_each(|live| live.adopt(&rules));
        }
    }

    /// Takes note of a transaction that ended, and begins the next.
    fn settle(&mut self, now: Instant) -> Result<(), AlerterError> {
        let Parts { dispatch, consumer, .. } = &mut self.parts;
        let to_restore = dispatch
            .drive(&mut self.lives, consumer, now)
            .map_err(|error| AlerterError::Thread(error.to_string()))?;
        for partition in to_restore {
            tracing::warn!(
                partition,
                "it is not known what of a partition was saved: its state is read again"
            );
            let named = self.named(partition);
            go_on("pause a partition", self.parts.consumer.pause(&[named]))?;
            self.close(partition);
        }
        Ok(())
    }

    /// Nothing of the partition is read before its state is restored.
    fn close(&mut self, partition: i32) {
        self.lives.remove(&partition);
        self.parts.ends.forget(partition);
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        self.closed.insert(partition, epoch);
        self.waiting.push(Closed { partition, epoch });
    }

    /// Begins to restore partitions.
    fn restore(&mut self) -> Result<(), AlerterError> {
        // A transaction of this alerter that is under way may change what is saved.
        if self.waiting.is_empty() || self.parts.dispatch.is_under_way() {
            return Ok(());
        }
        let closed: Vec<Closed> = self.waiting.drain(..).collect();
        let closed: Vec<Closed> =
            closed.into_iter().filter(|one| self.closed.get(&one.partition) == Some(&one.epoch)).collect();
        let (restorer, restored) = (self.parts.restorer.clone(), self.restored_in.clone());
        let (rules, abort) = (Arc::clone(&self.parts.rules.borrow()), self.parts.abort.clone());
        std::thread::Builder::new()
            .name("penstock-restore".to_owned())
            .spawn(move || restorer.run(&closed, &rules, &abort, &restored))
            .map(drop)
            .map_err(|error| AlerterError::Thread(error.to_string()))
    }

    /// Begins to read partitions that were restored.
    fn open(&mut self, now: Instant) -> Result<(), AlerterError> {
        self.restored.extend(self.restored_out.try_iter());
        let mut reachable = true;
        for restored in std::mem::take(&mut self.restored) {
            let Closed { partition, epoch } = restored.closed;
            if self.closed.get(&partition) != Some(&epoch) {
                continue;
            }
            let placed = if reachable { self.place(&restored) } else { Ok(None) };
            match placed {
                Ok(Some(next)) => self.begin(restored, next, now)?,
                Ok(None) => self.restored.push(restored),
                Err(error) => {
                    tracing::warn!(
                        partition,
                        "cannot go to where a partition is to be read from yet: {error}"
                    );
                    // The others would wait for the same broker, one after the other.
                    reachable = false;
                    self.restored.push(restored);
                }
            }
        }
        Ok(())
    }

    /// Moves the consumer to where the partition is to be read from.
    fn place(&mut self, restored: &Restored) -> Result<Option<i64>, KafkaError> {
        let named = self.named(restored.closed.partition);
        let (low, high) = self.parts.consumer.watermarks(&named, PROBE_TIMEOUT)?;
        let next = match (restored.from, self.start) {
            (Some(from), _) if from < low => {
                tracing::error!(
                    partition = restored.closed.partition,
                    from,
                    oldest = low,
                    "readings are gone from Kafka that no rule has seen: the topic keeps them for less long than no alerter ran"
                );
                self.parts.metrics.missed(low - from);
                low
            }
            (Some(from), _) => from,
            (None, AlertsStart::Earliest) => low,
            (None, AlertsStart::Latest) => high,
        };
        self.parts.consumer.seek(&[(named, next)], PROBE_TIMEOUT)?;
        Ok(Some(next))
    }

    fn begin(&mut self, restored: Restored, next: i64, now: Instant) -> Result<(), AlerterError> {
        let Restored { closed: Closed { partition, epoch }, engine, raised, from, unreadable } = restored;
        self.closed.remove(&partition);
        self.parts.metrics.restored(unreadable);
        tracing::info!(
            partition,
            devices = engine.devices(),
            firing = engine.firing(),
            from = next,
            "a partition is restored"
        );
        // Where nothing says from where to read, that is said at once.
        let checkpoint_due = if from.is_some() { now + self.checkpoint_every } else { now };
        let mut live =
            Live::new(partition, epoch, engine, next, raised, (checkpoint_due, self.checkpoint_every));
        live.adopt(&self.parts.rules.borrow());
        self.lives.insert(partition, live);
        self.parts.ends.watch(partition);
        if !self.paused {
            go_on("read a partition", self.parts.consumer.resume(&[self.named(partition)]))?;
        }
        Ok(())
    }

    /// Lets time go on for rules about silence.
    fn time(&mut self, now: Instant) {
        if now.saturating_duration_since(self.timed_at) < TIME_EVERY {
            return;
        }
        self.timed_at = now;
        let names: Vec<TopicPartition> = self.lives.keys().map(|partition| self.named(*partition)).collect();
        for ((partition, live), named) in self.lives.iter_mut().zip(&names) {
            // Behind the last record there may be markers of transactions.
            let passed = self.parts.consumer.passed(named).unwrap_or(0).max(live.next());
            live.time(self.parts.ends.proven_ms(*partition, passed), self.grace_ms);
        }
    }

    fn make_room(&mut self) -> Result<(), AlerterError> {
        let waiting: usize = self.lives.values().map(Live::waiting).sum();
        let pause = if self.paused { waiting > WAITING_MAX / 2 } else { waiting > WAITING_MAX };
        if pause == self.paused {
            return Ok(());
        }
        let named: Vec<TopicPartition> = self.lives.keys().map(|partition| self.named(*partition)).collect();
        if pause {
            tracing::info!(waiting, "alerts are behind: reading pauses until there is room");
            go_on("pause partitions", self.parts.consumer.pause(&named))?;
        } else {
            tracing::info!("alerts have caught up: reading goes on");
            go_on("resume partitions", self.parts.consumer.resume(&named))?;
        }
        self.paused = pause;
        Ok(())
    }

    fn poll(&mut self) -> Result<(), AlerterError> {
        let busy = self.parts.dispatch.is_under_way() || !self.closed.is_empty();
        let timeout = if busy { POLL_TIMEOUT_BUSY } else { POLL_TIMEOUT };
        let event = match self.parts.consumer.poll(POLL_RECORDS_MAX, timeout)? {
            Polled::Idle => return Ok(()),
            Polled::Records(records) => {
                for record in &records {
                    if let Some(live) = self.lives.get_mut(&record.partition) {
                        live.record(&record);
                    }
                }
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

    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), AlerterError> {
        tracing::info!(partitions = partitions.len(), "partitions assigned");
        self.parts.metrics.rebalanced("assigned");
        // Where to read is settled when they are restored.
        let offsets: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
        go_on("take up partitions", self.parts.consumer.assign_done_at(&offsets))?;
        go_on("pause partitions", self.parts.consumer.pause(partitions))?;
        partitions.iter().for_each(|partition| self.close(partition.partition));
        Ok(())
    }

    /// Stores what the partitions have raised before they are given up. If that takes too long they are given up all the
    /// same: the next owner raises it.
    fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<(), AlerterError> {
        tracing::info!(partitions = partitions.len(), "partitions revoked");
        self.parts.metrics.rebalanced("revoked");
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.partition).collect();
        let is_done = |consume: &Self, number: &i32| {
            !consume.parts.dispatch.holds(*number)
                && consume.lives.get(number).is_none_or(|live| live.waiting() == 0)
        };
        let deadline = Instant::now() + self.drain_timeout;
        if !self.flush(deadline, |consume| numbers.iter().all(|number| is_done(consume, number)))? {
            tracing::warn!(
                "alerts of revoked partitions are not stored in time; their next owner raises them"
            );
        }
        self.forget(&numbers);
        Ok(go_on("give up partitions", self.parts.consumer.revoke_done(partitions))?)
    }

    /// Another alerter may have the partitions already. What is under way for them is refused by Kafka, or was in time.
    fn lost(&mut self, partitions: &[TopicPartition]) -> Result<(), AlerterError> {
        tracing::warn!(
            partitions = partitions.len(),
            "partitions lost: this alerter was silent for too long"
        );
        self.parts.metrics.rebalanced("lost");
        self.parts.health.suspect();
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.partition).collect();
        self.forget(&numbers);
        Ok(go_on("give up partitions", self.parts.consumer.revoke_done(partitions))?)
    }

    fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.lives.remove(partition);
            self.closed.remove(partition);
            self.parts.ends.forget(*partition);
            self.parts.metrics.partition_gone(*partition);
        }
    }

    /// Goes on with transactions until `done` says so, or until the deadline. Returns what `done` says.
    fn flush(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> Result<bool, AlerterError> {
        loop {
            self.settle(Instant::now())?;
            if done(self) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(POLL_TIMEOUT_BUSY);
        }
    }

    fn observe(&mut self, now: Instant) -> Result<(), AlerterError> {
        if now.saturating_duration_since(self.observed_at) < OBSERVE_EVERY {
            return Ok(());
        }
        self.observed_at = now;
        let probed = self.named(0);
        let Parts { consumer, metrics, health, ends, dispatch, .. } = &mut self.parts;
        health.look(consumer.errors(), || {
            let asked = consumer.watermarks(&probed, PROBE_TIMEOUT).map(drop);
            asked.map_err(|error| consumer.last_error().cloned().unwrap_or(error))
        });
        let mut totals = crate::metrics::Totals::default();
        for (partition, live) in &mut self.lives {
            totals.add(live.engine());
            let Counts { records, unreadable } = live.take_counts();
            metrics.read(records, unreadable);
            if let Some(end) = ends.end(*partition) {
                metrics.lag(*partition, (end - live.next()).max(0));
            }
        }
        metrics.totals(&totals);
        if now.saturating_duration_since(self.committed_at) >= COMMIT_EVERY && !dispatch.is_under_way() {
            self.committed_at = now;
            let next: Vec<_> =
                self.lives.iter().map(|(partition, live)| (self.named(*partition), live.next())).collect();
            go_on("commit offsets", self.parts.consumer.commit_async(&next))?;
        }
        Ok(())
    }

    /// Stores what there is, if `store`, and what the rules know of each device, and leaves the group.
    fn drain(&mut self, store: bool) -> Result<(), AlerterError> {
        let started = Instant::now();
        let is_idle = |consume: &Self| {
            !consume.parts.dispatch.is_under_way() && consume.lives.values().all(Live::is_saved)
        };
        self.lives.values_mut().for_each(|live| live.checkpoint_now(started));
        if store && !self.flush(started + self.drain_timeout * 4 / 5, is_idle)? {
            tracing::warn!("not all states could be saved before the deadline; readings will be read again");
        }
        self.parts.abort.cancel();
        let left = self.parts.consumer.leave(started + self.drain_timeout + LEAVE_TIMEOUT)?;
        let numbers: Vec<i32> = left.iter().map(|partition| partition.partition).collect();
        self.forget(&numbers);
        Ok(())
    }

    fn named(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.parts.topic), number)
    }
}
