//! What an alerter knows of one partition: its engine, how far it has read, and what is to be written next. No I/O.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_kafka::{IncomingRecord, OwnedRecord};
use penstock_proto::{DeviceId, ReadingView};

use super::record::Topics;
use crate::engine::{Engine, Raised, Reading};
use crate::rules::RuleSet;

/// Devices whose state is saved in one transaction; a checkpoint of more takes several.
const SAVED_AT_ONCE: usize = 1_000;

/// Tells assignments of the same partition apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch(pub(super) u64);

/// One partition of this alerter that is being read.
pub(super) struct Live {
    partition: i32,
    epoch: Epoch,
    engine: Engine,
    /// Offset of the next record to apply.
    next: i64,
    /// Latest time of receipt among the records.
    received_ms: i64,
    /// The time of receipt by which every reading has been applied, as far as that is known.
    reached_ms: i64,
    raised: Vec<Raised>,
    checkpoint: Checkpoint,
    counts: Counts,
}

/// What was seen since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) records: u64,
    /// Records that are no reading of the device that their key names. Storage makes them dead letters.
    pub(super) unreadable: u64,
}

/// The states of all devices that changed are saved from time to time.
#[derive(Debug)]
struct Checkpoint {
    due: Instant,
    every: Duration,
    /// The next offset when the last one was finished: without readings since there is nothing to save.
    done_at: Option<i64>,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    /// The next offset when it began.
    from: i64,
    /// Devices that had changed by then and are not saved yet.
    left: Vec<DeviceId>,
}

/// What goes into one transaction.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) epoch: Epoch,
    pub(super) records: Vec<Arc<OwnedRecord>>,
    pub(super) next: i64,
    pub(super) raised: Arc<Vec<Raised>>,
    /// Whether a checkpoint is done with it.
    pub(super) marks: bool,
}

impl Live {
    /// A partition whose engine has seen what is saved, and that is read from `next` on. `raised` came of restoring it. `checkpoint` is
    /// when the first is due, and how often there is one.
    pub(super) fn new(
        partition: i32,
        epoch: Epoch,
        engine: Engine,
        next: i64,
        raised: Vec<Raised>,
        checkpoint: (Instant, Duration),
    ) -> Self {
        let (due, every) = checkpoint;
        let checkpoint = Checkpoint { due, every, done_at: None, under_way: None };
        Self {
            partition,
            epoch,
            engine,
            next,
            received_ms: i64::MIN,
            reached_ms: i64::MIN,
            raised,
            checkpoint,
            counts: Counts::default(),
        }
    }

    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) const fn next(&self) -> i64 {
        self.next
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Alerts that are in no transaction yet.
    pub(super) fn waiting(&self) -> usize {
        self.raised.len()
    }

    /// Applies a record. One that was applied before is passed over.
    pub(super) fn record(&mut self, record: &IncomingRecord<'_>) {
        if record.offset < self.next {
            return;
        }
        self.next = record.offset + 1;
        self.counts.records += 1;
        let Some((device, view)) = reading(record) else {
            self.counts.unreadable += 1;
            return;
        };
        let received_ms = received_ms(record, &view);
        self.received_ms = self.received_ms.max(received_ms);
        let reading = Reading { device, offset: record.offset, received_ms, view: &view };
        self.engine.reading(&reading, &mut self.raised);
    }

    /// Lets time go on: to what the records say, or to `proven_ms`, by which everything that was received has been
    /// applied; less `grace_ms`, for which a reading may have been on its way.
    pub(super) fn time(&mut self, proven_ms: Option<i64>, grace_ms: i64) {
        let now_ms = proven_ms.unwrap_or(i64::MIN).max(self.received_ms).saturating_sub(grace_ms);
        if now_ms > self.reached_ms {
            self.reached_ms = now_ms;
            self.engine.advance(now_ms, &mut self.raised);
        }
    }

    /// Other rules are in force from now on.
    pub(super) fn adopt(&mut self, rules: &Arc<RuleSet>) {
        if !Arc::ptr_eq(self.engine.rules(), rules) {
            self.engine.adopt(Arc::clone(rules), self.reached_ms, &mut self.raised);
        }
    }

    /// Whether there is something for a transaction.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.raised.is_empty() || self.checkpoint.under_way.is_some() || self.is_checkpoint_due(now)
    }

    fn is_checkpoint_due(&self, now: Instant) -> bool {
        now >= self.checkpoint.due && self.checkpoint.done_at != Some(self.next)
    }

    /// Saves all that changed as soon as possible.
    pub(super) fn checkpoint_now(&mut self, now: Instant) {
        self.checkpoint.due = now;
    }

    /// Whether everything is saved.
    pub(super) fn is_saved(&self) -> bool {
        self.raised.is_empty()
            && self.checkpoint.under_way.is_none()
            && self.checkpoint.done_at == Some(self.next)
    }

    /// What the next transaction has to hold: alerts, the states that raised them, and a piece of a checkpoint.
    pub(super) fn cut(&mut self, topics: &Topics, now: Instant) -> Cut {
        if self.checkpoint.under_way.is_none() && self.is_checkpoint_due(now) {
            let mut left = Vec::new();
            self.engine.take_dirty(usize::MAX, &mut left);
            self.checkpoint.under_way = Some(UnderWay { from: self.next, left });
        }
        let raised = std::mem::take(&mut self.raised);
        let mut records: Vec<Arc<OwnedRecord>> =
            raised.iter().map(|raised| topics.alert(raised).into()).collect();
        let mut devices: Vec<DeviceId> = raised.iter().map(|raised| raised.device).collect();
        devices.sort_unstable();
        devices.dedup();
        let mut mark = None;
        if let Some(UnderWay { from, left }) = &mut self.checkpoint.under_way {
            devices.extend(left.drain(left.len().saturating_sub(SAVED_AT_ONCE)..));
            if left.is_empty() {
                mark = Some(*from);
            }
        }
        for device in devices {
            let state = self.engine.snapshot(device);
            self.engine.mark_clean(device);
            records.push(topics.state(self.partition, device, state).into());
        }
        if let Some(from) = mark {
            records.push(topics.mark(self.partition, from).into());
            let Checkpoint { due, every, done_at, under_way } = &mut self.checkpoint;
            (*due, *done_at, *under_way) = (now + *every, Some(from), None);
        }
        Cut { epoch: self.epoch, records, next: self.next, raised: Arc::new(raised), marks: mark.is_some() }
    }
}

/// The device and the reading of a record; `None` if it is none.
pub(crate) fn reading<'a>(record: &IncomingRecord<'a>) -> Option<(DeviceId, ReadingView<'a>)> {
    let device = DeviceId::try_from(record.key?).ok()?;
    let view = ReadingView::decode(record.payload).ok().filter(|_| !record.is_tombstone)?;
    (view.device_id.is_empty() || view.device_id == device.as_bytes()).then_some((device, view))
}

/// When a reading was received: the record's time; a producer that gives none is taken to have sent it when it was measured.
pub(crate) const fn received_ms(record: &IncomingRecord<'_>, view: &ReadingView<'_>) -> i64 {
    if record.timestamp_ms >= 0 { record.timestamp_ms } else { view.timestamp_ms }
}
