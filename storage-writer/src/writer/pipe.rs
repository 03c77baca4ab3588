//! From records to batches under way, on the consumer's thread. Knows nothing of rebalances or of Kafka's client;
//! waits for nothing unless it is asked to.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use penstock_kafka::{Batch as Records, IncomingRecord};
use penstock_proto::{Invalid, Reason};
use tokio::runtime::Handle;

use super::WriterError;
use super::store::Store;
use crate::admit::{Record, TIMESTAMP_MS_MAX, admit};
use crate::batch::{Batch, Limits, Refused};
use crate::metrics::Metrics;
use crate::native::Row;
use crate::offsets::{BatchId, Epoch, Offsets};

/// Says how a batch ended when it is dropped, so that no end, not even a panic, goes unnoticed.
struct Ending {
    id: BatchId,
    bytes: usize,
    stored: bool,
    endings: SyncSender<Ended>,
}

struct Ended {
    id: BatchId,
    bytes: usize,
    stored: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Self { id, bytes, stored, .. } = *self;
        // There is room for every batch under way; without a receiver nobody waits.
        let _ = self.endings.try_send(Ended { id, bytes, stored });
    }
}

/// The batch that is being filled, those under way, and the offsets of both.
pub(super) struct Pipe {
    pub(super) offsets: Offsets,
    batch: Batch,
    store: Arc<Store>,
    metrics: Metrics,
    runtime: Handle,
    endings: Receiver<Ended>,
    endings_in: SyncSender<Ended>,
    inserts_max: usize,
    inserts: usize,
    inserts_bytes: usize,
    batches: u64,
    abandoned: bool,
}

impl Pipe {
    pub(super) fn new(
        limits: Limits,
        inserts_max: usize,
        store: Arc<Store>,
        metrics: Metrics,
        runtime: Handle,
    ) -> Self {
        let (endings_in, endings) = sync_channel(inserts_max);
        Self {
            offsets: Offsets::default(),
            batch: Batch::new(limits),
            store,
            metrics,
            runtime,
            endings,
            endings_in,
            inserts_max,
            inserts: 0,
            inserts_bytes: 0,
            batches: 0,
            abandoned: false,
        }
    }

    /// Puts records into the batch, and sends it off whenever it is large enough and an insert may begin.
    pub(super) fn ingest(&mut self, records: &Records<'_>) {
        let now = Instant::now();
        let mut skipped = 0;
        for record in records {
            match self.offsets.read(record.partition, record.offset) {
                Some(epoch) => self.add(&record, epoch, now),
                None => skipped += 1,
            }
            if self.batch.is_due(now, self.inserts) && self.inserts < self.inserts_max {
                self.dispatch();
            }
        }
        if skipped > 0 {
            self.metrics.skipped(skipped);
        }
    }

    #[inline]
    fn add(&mut self, record: &IncomingRecord<'_>, epoch: Epoch, now: Instant) {
        let payload = if record.is_tombstone { None } else { Some(record.payload) };
        let admitted = admit(&Record { key: record.key, payload });
        let numbers = (u16::try_from(record.partition), u64::try_from(record.offset));
        match (admitted, numbers) {
            (Ok((device, reading)), (Ok(kafka_partition), Ok(kafka_offset))) => {
                let received_at_ms = received_at_ms(record.timestamp_ms);
                let row = Row { device, reading: &reading, received_at_ms, kafka_partition, kafka_offset };
                self.batch.push(&row, epoch, now);
            }
            (Err(invalid), _) => self.batch.refuse(refused(record, invalid), epoch, now),
            // Kafka numbers from 0, and the topic's partitions were counted at start.
            (Ok(_), _) => {
                let invalid = Invalid::new(Reason::BadKey, "partition and offset do not fit their columns");
                self.batch.refuse(refused(record, invalid), epoch, now);
            }
        }
    }

    /// Whether the batch holds all it may.
    pub(super) const fn is_full(&self) -> bool {
        self.batch.is_full()
    }

    /// Whether an insert may begin.
    pub(super) const fn has_slot(&self) -> bool {
        self.inserts < self.inserts_max
    }

    /// Whether an insert is under way.
    pub(super) const fn is_storing(&self) -> bool {
        self.inserts > 0
    }

    /// Whether nothing is left to be stored.
    pub(super) const fn is_idle(&self) -> bool {
        self.inserts == 0 && self.batch.is_empty()
    }

    /// How long until the batch is old enough; `None` if it is empty.
    pub(super) fn age_left(&self, now: Instant) -> Option<Duration> {
        self.batch.age_left(now)
    }

    /// Sends the batch off if it is due and an insert may begin.
    pub(super) fn dispatch_if_due(&mut self, now: Instant) {
        if self.has_slot() && self.batch.is_due(now, self.inserts) {
            self.dispatch();
        }
    }

    /// Sends the batch off. There must be a slot.
    pub(super) fn dispatch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let bytes = self.batch.bytes();
        let mut cut = self.batch.cut();
        let id = self.offsets.begin(std::mem::take(&mut cut.ranges));
        self.inserts += 1;
        self.inserts_bytes += bytes;
        self.batches += 1;
        let ending = Ending { id, bytes, stored: false, endings: self.endings_in.clone() };
        let store = Arc::clone(&self.store).store(cut, self.batches);
        self.runtime.spawn(async move {
            // Moved in whole: it is dropped when the task ends in whatever way.
            let mut ending = ending;
            ending.stored = store.await.is_ok();
        });
    }

    /// Takes note of batches that have ended.
    ///
    /// # Errors
    /// [`WriterError::Stopped`] if one ended without being stored.
    pub(super) fn reap(&mut self) -> Result<(), WriterError> {
        while let Ok(ended) = self.endings.try_recv() {
            self.ended(&ended);
        }
        if self.abandoned { Err(WriterError::Stopped) } else { Ok(()) }
    }

    /// Waits until a batch has ended, at most `timeout`.
    ///
    /// # Errors
    /// [`WriterError::Stopped`] if one ended without being stored.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<(), WriterError> {
        match self.endings.recv_timeout(timeout) {
            Ok(ended) => self.ended(&ended),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        self.reap()
    }

    fn ended(&mut self, ended: &Ended) {
        self.inserts -= 1;
        self.inserts_bytes -= ended.bytes;
        if ended.stored {
            self.offsets.stored(ended.id);
        } else {
            self.abandoned = true;
        }
    }

    /// Sends off what there is and waits until `done` says so, or until the deadline. Returns what `done` says.
    ///
    /// # Errors
    /// [`WriterError::Stopped`] if a batch ended without being stored.
    pub(super) fn flush(
        &mut self,
        deadline: Instant,
        done: impl Fn(&Self) -> bool,
    ) -> Result<bool, WriterError> {
        loop {
            self.reap()?;
            if self.has_slot() {
                self.dispatch();
            }
            if done(self) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.wait(left.min(Duration::from_millis(100)))?;
        }
    }

    /// Whether nothing of these partitions is left to be stored.
    pub(super) fn is_done_with(&self, partitions: &[i32]) -> bool {
        !self.offsets.in_flight_of(partitions)
            && !self.batch.ranges().any(|range| partitions.contains(&range.partition))
    }

    /// Drops the batch if it holds records of these partitions. Returns from where the others are to be read again.
    pub(super) fn discard(&mut self, partitions: &[i32]) -> Vec<(i32, i64)> {
        if !self.batch.ranges().any(|range| partitions.contains(&range.partition)) {
            return Vec::new();
        }
        let offsets = &mut self.offsets;
        let others = self.batch.ranges().filter(|range| !partitions.contains(&range.partition));
        let again = others
            .filter(|range| offsets.rewind(range))
            .map(|range| (range.partition, range.first))
            .collect();
        self.batch.clear();
        again
    }

    /// Bytes of rows that are not stored yet.
    pub(super) const fn buffered_bytes(&self) -> usize {
        self.batch.bytes() + self.inserts_bytes
    }
}

fn refused(record: &IncomingRecord<'_>, invalid: Invalid) -> Refused {
    Refused {
        key: record.key.map(Bytes::copy_from_slice),
        payload: Bytes::copy_from_slice(record.payload),
        invalid,
        partition: record.partition,
        offset: record.offset,
    }
}

/// The record's timestamp; now, if a producer gave it none that a row can hold.
fn received_at_ms(timestamp_ms: i64) -> i64 {
    if (0..=TIMESTAMP_MS_MAX).contains(&timestamp_ms) {
        return timestamp_ms;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(TIMESTAMP_MS_MAX)
}
