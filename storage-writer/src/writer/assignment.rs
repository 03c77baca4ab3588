//! Partitions between their assignment and their first record, as the consumer's thread sees them: which are closed,
//! which are being opened, and what has come of that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{Consumer, KafkaError, TopicPartition};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

use super::floors::Group;
use super::opening::{Closed, Opened, open};
use super::store::Store;
use crate::offsets::Epoch;

/// How long Kafka may take to move the consumer, while the thread waits.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a partition that another writer has claimed is left to it. If Kafka has moved the partition, this writer
/// hears of it within a heartbeat (3 s), and claims nothing.
const LEFT_ALONE: Duration = Duration::from_millis(3_500);

/// Opened partitions that the consumer's thread has not looked at yet; more wait to be reported.
const OPENED_MAX: usize = 1_024;

/// Closed partitions.
pub(super) struct Assignment {
    store: Arc<Store>,
    group: Arc<Group>,
    runtime: Handle,
    topic: Arc<str>,
    /// Those that are about to be opened, and how long they are to be left alone before.
    closed: BTreeMap<i32, (Epoch, Duration)>,
    openings: Vec<Opening>,
    opened_in: Sender<Opened>,
    opened: Receiver<Opened>,
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
    pub(super) fn new(store: Arc<Store>, group: Arc<Group>, runtime: Handle, topic: Arc<str>) -> Self {
        let (opened_in, opened) = channel(OPENED_MAX);
        let (closed, openings) = (BTreeMap::new(), Vec::new());
        Self { store, group, runtime, topic, closed, openings, opened_in, opened }
    }

    /// A partition was assigned; it must be paused.
    pub(super) fn begin(&mut self, partition: i32, epoch: Epoch) {
        self.closed.insert(partition, (epoch, Duration::ZERO));
    }

    /// A partition is to be taken over anew, after a while if another writer has claimed it; it must be paused.
    pub(super) fn begin_again(&mut self, partition: i32, epoch: Epoch, fenced: bool) {
        self.closed.insert(partition, (epoch, if fenced { LEFT_ALONE } else { Duration::ZERO }));
    }

    /// Whether partitions wait to be opened.
    pub(super) fn is_opening(&self) -> bool {
        !self.closed.is_empty() || !self.openings.is_empty()
    }

    /// Begins to open partitions.
    pub(super) fn drive(&mut self) {
        let mut by_delay: BTreeMap<Duration, Vec<Closed>> = BTreeMap::new();
        for (number, (epoch, delay)) in std::mem::take(&mut self.closed) {
            // The topic's partitions were counted at start: their numbers fit.
            let Ok(partition) = u16::try_from(number) else { continue };
            by_delay.entry(delay).or_default().push(Closed { partition, epoch });
        }
        by_delay.into_iter().for_each(|(delay, closed)| self.open(closed, delay));
    }

    fn open(&mut self, closed: Vec<Closed>, delay: Duration) {
        let cancel = CancellationToken::new();
        let (store, group) = (Arc::clone(&self.store), Arc::clone(&self.group));
        let work = open(store, group, closed.clone(), delay, cancel.clone(), self.opened_in.clone());
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

    /// Moves the consumer to where an opened partition is to be read from.
    ///
    /// # Errors
    /// It cannot be moved; the partition has to stay closed.
    pub(super) fn place(&self, consumer: &mut Consumer, opened: &Opened) -> Result<(), KafkaError> {
        let partition = self.named(opened.closed.partition.into());
        let floor = match opened.floor {
            Some(floor) => floor,
            None => consumer.watermarks(&partition, PLACE_TIMEOUT)?.0,
        };
        consumer.seek(&[(partition, floor)], PLACE_TIMEOUT)
    }

    /// These partitions are this writer's no longer. What is being opened together with them begins anew.
    pub(super) fn forget(&mut self, partitions: &[i32]) {
        let gone = |partition: i32| partitions.contains(&partition);
        self.closed.retain(|partition, _| !gone(*partition));
        let (hit, kept): (Vec<Opening>, Vec<Opening>) = std::mem::take(&mut self.openings)
            .into_iter()
            .partition(|opening| opening.closed.iter().any(|closed| gone(closed.partition.into())));
        self.openings = kept;
        for opening in hit {
            for closed in &opening.closed {
                if !gone(closed.partition.into()) {
                    self.closed.insert(closed.partition.into(), (closed.epoch, Duration::ZERO));
                }
            }
        }
    }

    fn named(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), number)
    }
}
