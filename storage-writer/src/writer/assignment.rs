//! Partitions between their assignment and their first record, as the consumer's thread sees them: which are closed,
//! which are being opened, and what has come of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_kafka::{Consumer, KafkaError, TopicPartition};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

use super::opening::{Closed, Opened, open};
use super::store::Store;
use crate::offsets::Epoch;

/// How long Kafka may take to say what is committed, while the thread waits.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before Kafka is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long a partition that another writer has claimed is left to it. If Kafka has moved the partition, this writer
/// hears of it within a heartbeat (3 s), and claims nothing.
const LEFT_ALONE: Duration = Duration::from_millis(3_500);

/// Opened partitions that the consumer's thread has not looked at yet; more wait to be reported.
const OPENED_MAX: usize = 1_024;

/// Closed partitions.
pub(super) struct Assignment {
    store: Arc<Store>,
    runtime: Handle,
    topic: Arc<str>,
    /// Those whose committed offset has to be asked for, and how long they are to be left alone then.
    unasked: BTreeMap<i32, (Epoch, Duration)>,
    ask_at: Instant,
    openings: Vec<Opening>,
    opened_in: Sender<Opened>,
    opened: Receiver<Opened>,
    /// Those that were read already and have to be read again from their committed offset.
    rewind: BTreeSet<i32>,
}

/// Partitions that are opened together.
#[derive(Debug)]
struct Opening {
    closed: Vec<Closed>,
    cancel: CancellationToken,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Assignment {
    pub(super) fn new(store: Arc<Store>, runtime: Handle, topic: Arc<str>) -> Self {
        let (opened_in, opened) = channel(OPENED_MAX);
        Self {
            store,
            runtime,
            topic,
            unasked: BTreeMap::new(),
            ask_at: Instant::now(),
            openings: Vec::new(),
            opened_in,
            opened,
            rewind: BTreeSet::new(),
        }
    }

    /// A partition was assigned; it must be paused.
    pub(super) fn begin(&mut self, partition: i32, epoch: Epoch) {
        self.unasked.insert(partition, (epoch, Duration::ZERO));
    }

    /// A partition is to be taken over anew, after a while if another writer has claimed it; it must be paused.
    pub(super) fn begin_again(&mut self, partition: i32, epoch: Epoch, fenced: bool) {
        self.rewind.insert(partition);
        self.unasked.insert(partition, (epoch, if fenced { LEFT_ALONE } else { Duration::ZERO }));
    }

    /// Whether partitions wait to be opened.
    pub(super) fn is_opening(&self) -> bool {
        !self.unasked.is_empty() || !self.openings.is_empty()
    }

    /// Asks what is committed, and begins to open partitions of which that is known.
    pub(super) fn drive(&mut self, consumer: &Consumer, now: Instant) {
        if self.unasked.is_empty() || now < self.ask_at {
            return;
        }
        let partitions: Vec<_> = self.unasked.keys().map(|number| self.named(*number)).collect();
        match consumer.committed(&partitions, COMMITTED_TIMEOUT) {
            Ok(committed) => {
                let mut by_delay: BTreeMap<Duration, Vec<Closed>> = BTreeMap::new();
                for (partition, floor) in committed {
                    let number = partition.partition;
                    let Some((epoch, delay)) = self.unasked.remove(&number) else { continue };
                    // The topic's partitions were counted at start: their numbers fit.
                    let Ok(partition) = u16::try_from(number) else { continue };
                    by_delay.entry(delay).or_default().push(Closed { partition, epoch, floor });
                }
                by_delay.into_iter().for_each(|(delay, closed)| self.open(closed, delay));
            }
            Err(error) => {
                tracing::info!("it is not known yet what is committed: {error}");
                self.ask_at = now + ASK_AGAIN;
            }
        }
    }

    fn open(&mut self, closed: Vec<Closed>, delay: Duration) {
        let cancel = CancellationToken::new();
        let work =
            open(Arc::clone(&self.store), closed.clone(), delay, cancel.clone(), self.opened_in.clone());
        self.openings.push(Opening { closed, cancel });
        self.runtime.spawn(work);
    }

    /// The next partition that was opened.
    pub(super) fn next_opened(&mut self) -> Option<Opened> {
        let opened = self.opened.try_recv().ok()?;
        for opening in &mut self.openings {
            opening.closed.retain(|closed| *closed != opened.closed);
        }
        self.openings.retain(|opening| !opening.closed.is_empty());
        Some(opened)
    }

    /// Moves the consumer to where an opened partition is to be read from, if it has read beyond.
    ///
    /// # Errors
    /// It cannot be moved; the partition has to stay closed.
    pub(super) fn place(&mut self, consumer: &Consumer, opened: &Opened) -> Result<(), KafkaError> {
        let number = i32::from(opened.closed.partition);
        if !self.rewind.contains(&number) {
            return Ok(());
        }
        let partition = self.named(number);
        let floor = match opened.closed.floor {
            Some(floor) => floor,
            None => consumer.watermarks(&partition, COMMITTED_TIMEOUT)?.0,
        };
        consumer.seek(&[(partition, floor)], COMMITTED_TIMEOUT)?;
        self.rewind.remove(&number);
        Ok(())
    }

    /// These partitions are this writer's no longer. What is being opened together with them begins anew.
    pub(super) fn forget(&mut self, partitions: &[i32]) {
        let gone = |partition: i32| partitions.contains(&partition);
        self.unasked.retain(|partition, _| !gone(*partition));
        self.rewind.retain(|partition| !gone(*partition));
        let (hit, kept): (Vec<Opening>, Vec<Opening>) = std::mem::take(&mut self.openings)
            .into_iter()
            .partition(|opening| opening.closed.iter().any(|closed| gone(closed.partition.into())));
        self.openings = kept;
        for opening in hit {
            for closed in &opening.closed {
                if !gone(closed.partition.into()) {
                    self.unasked.insert(closed.partition.into(), (closed.epoch, Duration::ZERO));
                }
            }
        }
    }

    fn named(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), number)
    }
}
