//! From records to batches under way, on the consumer's thread. Knows nothing of rebalances or of Kafka's client;
//! waits for nothing unless it is asked to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use penstock_kafka::{Batch as Records, ClientSettings, IncomingRecord};
use penstock_proto::{Invalid, Reason};
use tokio::runtime::Handle;

use super::WriterError;
use super::gate::{Abandoned, pause_unless};
use super::pressure::Stretch;
use super::refetch::refetch;
use super::store::{BadRow, Settled, Store};
use crate::admit::{Record, TIMESTAMP_MS_MAX, admit};
use crate::batch::{Batch, Cut, Limits, Refused};
use crate::metrics::Metrics;
use crate::native::Row;
use crate::offsets::{BatchId, Epoch, Found, OffsetRange, Offsets, Ripe};

/// Batches whose dead letters wait; more inserts do not begin until some of them are sent.
const LETTERED_MAX: usize = 8;

/// Says how a batch ended when it is dropped, so that no end, not even a panic, goes unnoticed.
struct Ending {
    id: BatchId,
    bytes: usize,
    done: Option<Done>,
    endings: SyncSender<Ended>,
}

/// A batch that was stored, and what of it was not.
#[derive(Default)]
struct Done {
    letters: Vec<Refused>,
    lost: Vec<OffsetRange>,
    fenced: bool,
}

struct Ended {
    id: BatchId,
    bytes: usize,
    /// `None` if it was given up.
    done: Option<Done>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let ended = Ended { id: self.id, bytes: self.bytes, done: self.done.take() };
        // There is room for every batch under way; without a receiver nobody waits.
        let _ = self.endings.try_send(ended);
    }
}

/// Where the records of bad rows are read again.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) client: ClientSettings,
    pub(super) topic: Arc<str>,
}

/// The batch that is being filled, those under way, and the offsets of both.
pub(super) struct Pipe {
    pub(super) offsets: Offsets,
    batch: Batch,
    store: Arc<Store>,
    source: Source,
    metrics: Metrics,
    runtime: Handle,
    endings: Receiver<Ended>,
    endings_in: SyncSender<Ended>,
    inserts_max: usize,
    inserts: usize,
    inserts_bytes: usize,
    batches: u64,
    abandoned: bool,
    /// Dead letters of batches that are stored.
    letters: BTreeMap<BatchId, Vec<Arc<Refused>>>,
    /// Partitions to be taken over anew, and whether another writer has claimed them.
    lost: Vec<(i32, bool)>,
    limits: Limits,
    stretch: Stretch,
}

impl Pipe {
    pub(super) fn new(
        limits: Limits,
        inserts_max: usize,
        store: Arc<Store>,
        source: Source,
        runtime: Handle,
        stretch: Stretch,
    ) -> Self {
        let metrics = store.metrics.clone();
        let (endings_in, endings) = sync_channel(inserts_max);
        Self {
            offsets: Offsets::default(),
            batch: Batch::new(limits),
            store,
            source,
            metrics,
            runtime,
            endings,
            endings_in,
            inserts_max,
            inserts: 0,
            inserts_bytes: 0,
            batches: 0,
            abandoned: false,
            letters: BTreeMap::new(),
            lost: Vec::new(),
            limits,
            stretch,
        }
    }

    /// Puts records into the batch, and sends it off whenever it is large enough and an insert may begin.
    pub(super) fn ingest(&mut self, records: &Records<'_>) {
        let now = Instant::now();
        self.batch.set_limits(self.limits.stretched(self.stretch.get()));
        let mut skipped = 0;
        for record in records {
            match self.offsets.read(record.partition, record.offset) {
                Found::New(epoch) => self.add(&record, epoch, false, now),
                Found::Stored(epoch) => self.add(&record, epoch, true, now),
                Found::Lettered(epoch) => self.batch.pass(record.partition, record.offset, epoch, now),
                Found::Foreign => skipped += 1,
            }
            if self.batch.is_due(now, self.inserts) && self.has_slot() {
                self.dispatch();
            }
        }
        if skipped > 0 {
            self.metrics.skipped(skipped);
        }
    }

    #[inline]
    fn add(&mut self, record: &IncomingRecord<'_>, epoch: Epoch, stored: bool, now: Instant) {
        let payload = if record.is_tombstone { None } else { Some(record.payload) };
        let admitted = admit(&Record { key: record.key, payload });
        let numbers = (u16::try_from(record.partition), u64::try_from(record.offset));
        match (admitted, numbers) {
            (Ok((device, reading)), (Ok(kafka_partition), Ok(kafka_offset))) => {
                let received_at_ms = received_at_ms(record.timestamp_ms);
                let row = Row { device, reading: &reading, received_at_ms, kafka_partition, kafka_offset };
                if stored {
                    self.batch.push_stored(&row, epoch, now);
                } else {
                    self.batch.push(&row, epoch, now);
                }
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
    pub(super) fn has_slot(&self) -> bool {
        self.inserts < self.inserts_max && self.letters.len() < LETTERED_MAX
    }

    /// Whether an insert is under way.
    pub(super) const fn is_storing(&self) -> bool {
        self.inserts > 0
    }

    /// Whether nothing is left to be stored.
    pub(super) fn is_idle(&self) -> bool {
        self.inserts == 0 && self.batch.is_empty() && self.letters.is_empty()
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
        let ranges = std::mem::take(&mut cut.ranges);
        let id = self.offsets.begin(ranges.clone());
        self.inserts += 1;
        self.inserts_bytes += bytes;
        self.batches += 1;
        let ending = Ending { id, bytes, done: None, endings: self.endings_in.clone() };
        let (store, source, number) = (Arc::clone(&self.store), self.source.clone(), self.batches);
        self.runtime.spawn(async move {
            // Moved in whole: it is dropped when the task ends in whatever way.
            let mut ending = ending;
            ending.done = settle(store, source, cut, ranges, number).await.ok();
        });
    }

    /// Takes note of batches that have ended.
    ///
    /// # Errors
    /// [`WriterError::Stopped`] if one ended without being stored.
    pub(super) fn reap(&mut self) -> Result<(), WriterError> {
        while let Ok(ended) = self.endings.try_recv() {
            self.ended(ended);
        }
        if self.abandoned { Err(WriterError::Stopped) } else { Ok(()) }
    }

    /// Waits until a batch has ended, at most `timeout`.
    ///
    /// # Errors
    /// [`WriterError::Stopped`] if one ended without being stored.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<(), WriterError> {
        match self.endings.recv_timeout(timeout) {
            Ok(ended) => self.ended(ended),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        self.reap()
    }

    fn ended(&mut self, ended: Ended) {
        self.inserts -= 1;
        self.inserts_bytes -= ended.bytes;
        let Some(Done { letters, lost, fenced }) = ended.done else {
            self.abandoned = true;
            return;
        };
        for range in lost {
            // From now on what this assignment has read moves no offset.
            if self.offsets.is_current(range.partition, range.epoch) {
                self.offsets.assign(range.partition);
                self.lost.push((range.partition, fenced));
            }
        }
        self.offsets.stored(ended.id, !letters.is_empty());
        if !letters.is_empty() {
            self.letters.insert(ended.id, letters.into_iter().map(Arc::new).collect());
        }
    }

    /// Partitions that were given up although they are this writer's, as far as Kafka has told it, and whether another
    /// has claimed them.
    pub(super) fn take_lost(&mut self) -> Vec<(i32, bool)> {
        std::mem::take(&mut self.lost)
    }

    /// These partitions are to be taken over anew: it is not known what of them is done with.
    pub(super) fn give_up(&mut self, partitions: &[i32]) {
        let owned: Vec<i32> =
            self.offsets.partitions().filter(|number| partitions.contains(number)).collect();
        for partition in owned {
            self.offsets.assign(partition);
            self.lost.push((partition, false));
        }
    }

    /// The letters of these batches that are this writer's to send.
    pub(super) fn letters_of(&self, ripe: &Ripe) -> Vec<Arc<Refused>> {
        let letters_of = |id: &BatchId| {
            let letters = self.letters.get(id).into_iter().flatten();
            letters.filter(|letter| ripe.holds(*id, letter.partition)).cloned().collect::<Vec<_>>()
        };
        ripe.ids.iter().flat_map(letters_of).collect()
    }

    /// The letters of these batches are in their topic, and the offsets committed; or, if not `sent`, they are another
    /// writer's to send.
    pub(super) fn letters_done(&mut self, ripe: &Ripe, sent: bool) {
        if sent {
            self.letters_of(ripe)
                .iter()
                .for_each(|letter| self.metrics.storage_failure(letter.invalid.reason));
            self.offsets.letters_sent(ripe);
        } else {
            self.offsets.letters_dropped(ripe);
        }
        ripe.ids.iter().for_each(|id| drop(self.letters.remove(id)));
    }

    /// Whether the batch holds records of this partition.
    pub(super) fn is_filling(&self, partition: i32) -> bool {
        self.batch.ranges().any(|range| range.partition == partition)
    }

    /// Whether nothing of these partitions is left to be stored.
    pub(super) fn is_done_with(&self, partitions: &[i32]) -> bool {
        let offsets = &self.offsets;
        let mut waiting =
            self.batch.ranges().filter(|range| offsets.is_current(range.partition, range.epoch));
        !offsets.in_flight_of(partitions) && !waiting.any(|range| partitions.contains(&range.partition))
    }

    /// Bytes of rows that are not stored yet.
    pub(super) const fn buffered_bytes(&self) -> usize {
        self.batch.bytes() + self.inserts_bytes
    }
}

/// Stores a batch, and finds the records of rows that ClickHouse does not take.
async fn settle(
    store: Arc<Store>,
    source: Source,
    mut cut: Cut,
    ranges: Vec<OffsetRange>,
    number: u64,
) -> Result<Done, Abandoned> {
    let Settled { bad, lost, fenced } = Arc::clone(&store).store(&cut, &ranges, number).await?;
    let mut letters = std::mem::take(&mut cut.refused);
    drop(cut);
    if !bad.is_empty() {
        tracing::warn!(
            rows = bad.len(),
            first = bad[0].detail,
            "ClickHouse does not take rows: they become dead letters"
        );
        letters.extend(records_of(&store, &source, bad).await?);
    }
    Ok(Done { letters, lost, fenced })
}

async fn records_of(store: &Store, source: &Source, bad: Vec<BadRow>) -> Result<Vec<Refused>, Abandoned> {
    let bad = Arc::new(bad);
    let mut backoff = store.backoff();
    loop {
        let (source, rows) = (source.clone(), Arc::clone(&bad));
        let found = tokio::task::spawn_blocking(move || refetch(&source.client, &source.topic, &rows)).await;
        match found {
            Ok(Ok(Some(letters))) => return Ok(letters),
            Ok(Ok(None)) => {
                tracing::warn!("the records of bad rows did not come in time; reading them again")
            }
            Ok(Err(error)) => tracing::warn!("the records of bad rows cannot be read, trying again: {error}"),
            Err(panicked) => {
                tracing::error!("reading the records of bad rows ended without a result: {panicked}");
                return Err(Abandoned);
            }
        }
        pause_unless(backoff.next(), &store.abort).await?;
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
