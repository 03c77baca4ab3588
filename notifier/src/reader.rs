//! One receiver's thread: polls Kafka, hands out requests, commits behind what is dealt with, answers rebalances.
//!
//! Never waits for a receiver: while too much waits it pauses partitions, so that Kafka keeps it in the group and memory
//! stays flat. A partition stays paused from its assignment until it is known what fired before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use penstock_kafka::{Consumer, Polled, TopicPartition, go_on};
use penstock_service::health::Health;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver as Inbox, Sender, channel};
use tokio_util::sync::CancellationToken;

use crate::NotifyError;
use crate::controls::Controls;
use crate::deliver::Courier;
use crate::desk::{Desk, Fate, Read};
use crate::history::{Historian, Restored};
use crate::ledger::{AlertTopic, Epoch, Part};
use crate::metrics::Counts;
use crate::notice::{Item, Letter};

/// Records taken from librdkafka at once.
const POLL_RECORDS_MAX: usize = 500;
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The same while requests are under way, whose ends are to be seen soon.
const POLL_TIMEOUT_BUSY: Duration = Duration::from_millis(10);
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// It is looked this often whose silence has ended.
const SILENCES_EVERY: Duration = Duration::from_millis(500);
const OBSERVE_EVERY: Duration = Duration::from_millis(1_000);
/// How long Kafka may take to answer where the thread has to wait for it.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long partitions are kept back for requests that are under way, when they are to be given up.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Ends that wait to be seen; tasks wait beyond that.
const ENDED_MAX: usize = 1_024;

/// What a task ended with.
enum Ended {
    Post(Arc<str>, Vec<(Item, Fate)>),
    Letter(Box<Letter>),
    Restored(Restored),
    /// It is not known where to begin with these partitions.
    Unknown(Vec<(Part, Epoch)>),
}

/// What a poll asks for besides taking records.
enum Event {
    Assigned(Vec<TopicPartition>),
    Revoked { partitions: Vec<TopicPartition>, lost: bool },
}

/// What the thread works with.
pub(crate) struct Parts {
    pub(crate) consumer: Consumer,
    pub(crate) desk: Desk,
    pub(crate) courier: Arc<Courier>,
    pub(crate) historian: Historian,
    pub(crate) controls: Arc<ArcSwap<Controls>>,
    pub(crate) counts: Counts,
    pub(crate) health: Health,
    pub(crate) runtime: Handle,
    pub(crate) drain_timeout: Duration,
    pub(crate) abort: CancellationToken,
}

/// The consumer and all that hangs on it.
pub(crate) struct Reader {
    parts: Parts,
    ended_in: Sender<Ended>,
    ended: Inbox<Ended>,
    names: [Arc<str>; 2],
    paused: bool,
    committed_at: Instant,
    observed_at: Instant,
    silences_at: Instant,
    commits_failed: u64,
}

impl Reader {
    pub(crate) fn new(parts: Parts) -> Self {
        let (ended_in, ended) = channel(ENDED_MAX);
        let names = AlertTopic::ALL.map(|topic| format!("{}{}", parts.historian.prefix, topic.name()).into());
        let now = Instant::now();
        Self {
            parts,
            ended_in,
            ended,
            names,
            paused: false,
            committed_at: now,
            observed_at: now,
            silences_at: now,
            commits_failed: 0,
        }
    }

    /// Works until `shutdown`, then delivers what waits, commits and leaves the group, within the drain deadline.
    pub(crate) fn run(mut self, shutdown: &CancellationToken) -> Result<(), NotifyError> {
        let worked = self.work(shutdown);
        let drained = self.drain(worked.is_ok());
        self.parts.abort.cancel();
        worked.and(drained)
    }

    fn work(&mut self, shutdown: &CancellationToken) -> Result<(), NotifyError> {
        while !shutdown.is_cancelled() {
            let now = Instant::now();
            self.settle()?;
            self.dispatch(now);
            self.commit(now)?;
            self.observe(now);
            self.make_room()?;
            let timeout = self.poll_timeout(now);
            self.poll(timeout)?;
        }
        Ok(())
    }

    /// Takes note of what has ended.
    fn settle(&mut self) -> Result<(), NotifyError> {
        while let Ok(ended) = self.ended.try_recv() {
            self.take_note(ended)?;
        }
        Ok(())
    }

    fn take_note(&mut self, ended: Ended) -> Result<(), NotifyError> {
        let desk = &mut self.parts.desk;
        match ended {
            Ended::Post(key, items) => desk.ended(&key, &items),
            Ended::Letter(letter) => {
                desk.lettered(&letter);
                self.parts.counts.alerts("malformed", 1);
            }
            Ended::Restored(restored) => self.open(restored)?,
            Ended::Unknown(parts) => {
                let wanted = |(part, epoch): &(Part, Epoch)| desk.is_current(*part, *epoch);
                let parts: Vec<_> = parts.into_iter().filter(wanted).collect();
                self.look_back(parts, Duration::from_secs(1));
            }
        }
        Ok(())
    }

    /// Begins to read partitions of which it is known what fired before.
    fn open(&mut self, restored: Restored) -> Result<(), NotifyError> {
        let mut failed = Vec::new();
        let (now, now_ms) = (Instant::now(), now_ms());
        let controls = self.parts.controls.load_full();
        for opening in restored.openings {
            let (part, epoch) = (opening.part, opening.epoch);
            if !self.parts.desk.is_current(part, epoch) {
                continue;
            }
            let named = self.named(part);
            if let Err(error) = self.parts.consumer.seek(&[(named.clone(), opening.floor)], KAFKA_TIMEOUT) {
                tracing::warn!(partition = %named, "cannot go back to where reading begins yet: {error}");
                failed.push((part, epoch));
                continue;
            }
            self.parts.desk.ledger.open(part, epoch, opening.floor, opening.is_committed);
            if !self.paused {
                go_on("read a partition", self.parts.consumer.resume(&[named]))?;
            }
        }
        for former in &restored.firing {
            let (part, epoch) = (former.notice.source.part, former.notice.source.epoch);
            if self.parts.desk.is_current(part, epoch) && !failed.contains(&(part, epoch)) {
                self.parts.desk.restore(former, &controls, now_ms, now);
            }
        }
        if !failed.is_empty() {
            self.look_back(failed, Duration::from_secs(1));
        }
        Ok(())
    }

    /// Finds out on another thread where to begin, and what fired before.
    fn look_back(&self, parts: Vec<(Part, Epoch)>, pause: Duration) {
        if parts.is_empty() {
            return;
        }
        let (historian, ended) = (self.parts.historian.clone(), self.ended_in.clone());
        let abort = self.parts.abort.clone();
        self.parts.runtime.spawn(async move {
            tokio::select! {
                () = abort.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let asked = parts.clone();
            let found = tokio::task::spawn_blocking(move || historian.restore(&asked, now_ms())).await;
            let note = match found {
                Ok(Ok(restored)) => Ended::Restored(restored),
                Ok(Err(error)) => {
                    tracing::warn!("cannot find out yet which alerts fire: {error}");
                    Ended::Unknown(parts)
                }
                Err(_) => Ended::Unknown(parts),
            };
            let _ = ended.send(note).await;
        });
    }

    /// Hands out everything that is to be sent now.
    fn dispatch(&mut self, now: Instant) {
        let controls = self.parts.controls.load_full();
        let now_ms = now_ms();
        if now.saturating_duration_since(self.silences_at) >= SILENCES_EVERY {
            self.silences_at = now;
            self.parts.desk.end_silences(&controls, now_ms, now);
        }
        while let Some(post) = self.parts.desk.next(&controls, now_ms, now) {
            let (courier, ended) = (Arc::clone(&self.parts.courier), self.ended_in.clone());
            self.parts.runtime.spawn(async move {
                let key = Arc::clone(&post.key);
                if let Ok(settled) = courier.deliver(post).await {
                    // Nobody hears it if the role has ended; then nothing is committed.
                    let _ = ended.send(Ended::Post(key, settled)).await;
                }
            });
        }
        let held_back = self.parts.desk.take_held_back();
        self.parts.counts.alerts("silenced", held_back.silenced);
        self.parts.counts.alerts("acknowledged", held_back.acknowledged);
    }

    fn letter(&self, letter: Box<Letter>) {
        let (courier, ended) = (Arc::clone(&self.parts.courier), self.ended_in.clone());
        self.parts.runtime.spawn(async move {
            if courier.letters().send(&letter).await.is_ok() {
                let _ = ended.send(Ended::Letter(letter)).await;
            }
        });
    }

    fn poll_timeout(&self, now: Instant) -> Duration {
        let desk = &self.parts.desk;
        let timeout =
            if desk.is_idle() && !desk.ledger.is_opening() { POLL_TIMEOUT } else { POLL_TIMEOUT_BUSY };
        desk.next_due().map_or(timeout, |due| due.saturating_duration_since(now).min(timeout))
    }

    /// Pauses and resumes reading.
    fn make_room(&mut self) -> Result<(), NotifyError> {
        let wanted =
            if self.paused { !self.parts.desk.has_plenty_of_room() } else { !self.parts.desk.has_room() };
        self.set_paused(wanted)
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), NotifyError> {
        if self.paused == paused {
            return Ok(());
        }
        let partitions: Vec<_> = self.parts.desk.ledger.fronts().map(|(part, _)| self.named(part)).collect();
        if paused {
            tracing::info!("too many alerts wait to be delivered: reading pauses until there is room");
            go_on("pause partitions", self.parts.consumer.pause(&partitions))?;
        } else {
            tracing::info!("there is room: reading goes on");
            go_on("resume partitions", self.parts.consumer.resume(&partitions))?;
        }
        self.paused = paused;
        Ok(())
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), NotifyError> {
        let mut malformed = Vec::new();
        let event = match self.parts.consumer.poll(POLL_RECORDS_MAX, timeout)? {
            Polled::Idle => return Ok(()),
            Polled::Records(records) => {
                let now = Instant::now();
                for record in &records {
                    let Some(topic) = self.names.iter().position(|name| **name == *record.topic) else {
                        continue;
                    };
                    let part = (AlertTopic::ALL[topic], record.partition);
                    match self.parts.desk.read(part, record.offset, record.key, record.payload, now) {
                        Read::Foreign => continue,
                        Read::Taken => {}
                        Read::Malformed(letter) => malformed.push(letter),
                    }
                    self.parts.counts.read();
                }
                None
            }
            Polled::Assigned(partitions) => Some(Event::Assigned(partitions)),
            Polled::Revoked { partitions, lost } => Some(Event::Revoked { partitions, lost }),
        };
        malformed.into_iter().for_each(|letter| self.letter(letter));
        match event {
            None => Ok(()),
            Some(Event::Assigned(partitions)) => self.assigned(&partitions),
            Some(Event::Revoked { partitions, lost }) => self.revoked(&partitions, lost),
        }
    }

    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), NotifyError> {
        tracing::info!(partitions = partitions.len(), "partitions of alerts assigned");
        // Where to read is settled when they are opened.
        let offsets: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
        go_on("take up partitions", self.parts.consumer.assign_done_at(&offsets))?;
        go_on("pause partitions", self.parts.consumer.pause(partitions))?;
        let parts = self.parts_of(partitions);
        let parts = parts.into_iter().map(|part| (part, self.parts.desk.ledger.assign(part))).collect();
        self.look_back(parts, Duration::ZERO);
        Ok(())
    }

    /// What waits of the partitions is left to their next owner; what is under way is waited for, for a while.
    fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<(), NotifyError> {
        tracing::info!(partitions = partitions.len(), lost, "partitions of alerts revoked");
        if !lost {
            let deadline = Instant::now() + REVOKE_TIMEOUT;
            while self.parts.desk.under_way() > 0 && self.wait_until(deadline)? {}
            self.commit_sync();
        }
        for part in self.parts_of(partitions) {
            self.parts.desk.revoke(part);
        }
        Ok(go_on("give up partitions", self.parts.consumer.revoke_done(partitions))?)
    }

    /// Waits for something to end. `false` once the deadline has passed.
    fn wait_until(&mut self, deadline: Instant) -> Result<bool, NotifyError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let ended = &mut self.ended;
        let wait = left.min(Duration::from_millis(50));
        let ended = self.parts.runtime.block_on(async { tokio::time::timeout(wait, ended.recv()).await });
        if let Ok(Some(ended)) = ended {
            self.take_note(ended)?;
        }
        Ok(true)
    }

    fn commit(&mut self, now: Instant) -> Result<(), NotifyError> {
        if now.saturating_duration_since(self.committed_at) < COMMIT_EVERY {
            return Ok(());
        }
        self.committed_at = now;
        let failed = self.parts.consumer.commit_counts().failed;
        if failed != self.commits_failed {
            self.parts.counts.commits_failed(failed.saturating_sub(self.commits_failed));
            self.commits_failed = failed;
            self.parts.desk.ledger.commit_failed();
        }
        let offsets = self.parts.desk.ledger.committable();
        if offsets.is_empty() {
            return Ok(());
        }
        go_on("commit offsets", self.parts.consumer.commit_async(&self.all_named(&offsets)))?;
        self.parts.desk.ledger.committed(&offsets);
        Ok(())
    }

    /// Commits and waits for the answer. A failure costs nothing but alerts that are delivered again.
    fn commit_sync(&mut self) {
        // An earlier commit may still be on its way: what it holds is committed once more.
        self.parts.desk.ledger.commit_failed();
        let offsets = self.parts.desk.ledger.committable();
        if offsets.is_empty() {
            return;
        }
        match self.parts.consumer.commit_sync(&self.all_named(&offsets), KAFKA_TIMEOUT) {
            Ok(()) => self.parts.desk.ledger.committed(&offsets),
            Err(error) => tracing::warn!("offsets are not committed, alerts may be delivered again: {error}"),
        }
    }

    fn observe(&mut self, now: Instant) {
        let probed = self.named((AlertTopic::Device, 0));
        let Parts { desk, counts, consumer, .. } = &self.parts;
        counts.waiting(desk.waiting(), self.paused);
        if now.saturating_duration_since(self.observed_at) < OBSERVE_EVERY {
            return;
        }
        self.observed_at = now;
        counts.firing(desk.firing());
        let high = |part| consumer.cached_watermarks(&self.named(part)).map(|(_, high)| high);
        let lag = |(part, front): (Part, i64)| high(part).map_or(0, |high| (high - front).max(0));
        counts.lag(desk.ledger.fronts().map(lag).sum());
        let Parts { consumer, health, .. } = &mut self.parts;
        health.look(consumer.errors(), || {
            let asked = consumer.watermarks(&probed, PROBE_TIMEOUT).map(drop);
            asked.map_err(|error| consumer.last_error().cloned().unwrap_or(error))
        });
    }

    /// Delivers what waits, if `deliver`, commits what is dealt with, and leaves the group.
    fn drain(&mut self, deliver: bool) -> Result<(), NotifyError> {
        let began = Instant::now();
        let deadline = began + self.parts.drain_timeout;
        while deliver && !self.parts.desk.is_idle() {
            let now = Instant::now();
            self.parts.desk.hurry(now);
            self.dispatch(now);
            if !self.wait_until(deadline)? {
                tracing::warn!(
                    "not all alerts could be delivered before the deadline; they will be read again"
                );
                break;
            }
        }
        self.commit_sync();
        self.parts.consumer.leave(began + self.parts.drain_timeout + KAFKA_TIMEOUT)?;
        Ok(())
    }

    fn parts_of(&self, partitions: &[TopicPartition]) -> Vec<Part> {
        let part = |partition: &TopicPartition| {
            let topic = self.names.iter().position(|name| **name == *partition.topic)?;
            Some((AlertTopic::ALL[topic], partition.partition))
        };
        partitions.iter().filter_map(part).collect()
    }

    fn named(&self, (topic, partition): Part) -> TopicPartition {
        let name = if topic == AlertTopic::Device { &self.names[0] } else { &self.names[1] };
        TopicPartition::new(Arc::clone(name), partition)
    }

    fn all_named(&self, offsets: &[(Part, i64)]) -> Vec<(TopicPartition, i64)> {
        offsets.iter().map(|(part, next)| (self.named(*part), *next)).collect()
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
