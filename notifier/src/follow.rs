//! Reads silences and acknowledgements to where their topic ends, then follows it.
//!
//! On a thread of its own, in a consumer group of its own that commits nothing: every process has to know all of them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use penstock_kafka::{
    ClientSettings, Consumer, ConsumerSettings, GroupObserver, IncomingRecord, KafkaError, Polled, ScanFrom,
    Scanner, TopicPartition,
};
use penstock_service::admin::Latch;
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;
use tokio_util::sync::CancellationToken;

use crate::controls::Controls;
use crate::metrics::Metrics;

const POLL: Duration = Duration::from_millis(200);
const ASK: Duration = Duration::from_secs(5);
const RECORDS_MAX: usize = 1_000;
const FETCH_BYTES_MAX: usize = 1 << 20;
const SESSION_TIMEOUT_MS: u64 = 30_000;

/// What people have said, as of a moment ago.
pub(crate) struct Follower {
    pub(crate) client: ClientSettings,
    pub(crate) topic: String,
    /// No other process has it.
    pub(crate) group: String,
    pub(crate) shared: Arc<ArcSwap<Controls>>,
    pub(crate) metrics: Metrics,
    pub(crate) latch: Latch,
    pub(crate) stop: CancellationToken,
}

impl Follower {
    /// Starts the thread; `loaded` is cancelled when the topic was read to its end.
    pub(crate) fn spawn(self, loaded: CancellationToken) -> std::io::Result<()> {
        let work = move || self.run(&loaded);
        std::thread::Builder::new().name("penstock-controls".to_owned()).spawn(work).map(drop)
    }

    fn run(self, loaded: &CancellationToken) {
        let condition = Condition::new("reading silences and acknowledgements");
        let mut backoff = Backoff::new(100, 2_000);
        while !self.stop.is_cancelled() {
            let failed = self.load().and_then(|(controls, next)| {
                condition.worked();
                backoff.reset();
                self.latch.set(true);
                loaded.cancel();
                self.follow(controls, next)
            });
            if let Err(error) = failed {
                condition.failed("unreachable", false, &error);
                std::thread::sleep(backoff.next());
            }
        }
    }

    /// Everything up to where the topic ends, and where to go on.
    fn load(&self) -> Result<(Controls, i64), KafkaError> {
        let observer = GroupObserver::new(&self.client, &self.group, false)?;
        let next = observer.watermarks(&TopicPartition::new(self.topic.as_str(), 0), ASK)?.1;
        let mut scanner = Scanner::open(&self.client, &self.topic, &ScanFrom::Beginning, true)?;
        let mut controls = Controls::default();
        while !self.stop.is_cancelled() {
            let Some(batch) = scanner.next_batch(RECORDS_MAX, POLL)? else { break };
            batch.iter().for_each(|record| self.fold(&mut controls, &record));
        }
        self.publish(&controls);
        Ok((controls, next))
    }

    fn follow(&self, mut controls: Controls, mut next: i64) -> Result<(), KafkaError> {
        let settings = ConsumerSettings {
            group: self.group.clone(),
            topics: vec![self.topic.clone()],
            fetch_bytes_max: FETCH_BYTES_MAX,
            session_timeout_ms: SESSION_TIMEOUT_MS,
            instance_id: None,
            read_committed: true,
        };
        let mut consumer = Consumer::subscribe(&self.client, &settings)?;
        while !self.stop.is_cancelled() {
            let assigned = match consumer.poll(RECORDS_MAX, POLL)? {
                Polled::Idle => {
                    // Silences end by themselves.
                    self.count(&controls);
                    continue;
                }
                Polled::Records(records) => {
                    for record in &records {
                        self.fold(&mut controls, &record);
                        next = record.offset + 1;
                    }
                    self.publish(&controls);
                    continue;
                }
                Polled::Assigned(partitions) => Ok(partitions),
                Polled::Revoked { partitions, .. } => Err(partitions),
            };
            match assigned {
                Ok(partitions) => {
                    let offsets: Vec<_> = partitions.into_iter().map(|partition| (partition, next)).collect();
                    consumer.assign_done_at(&offsets)?;
                }
                Err(partitions) => consumer.revoke_done(&partitions)?,
            }
        }
        Ok(())
    }

    fn fold(&self, controls: &mut Controls, record: &IncomingRecord<'_>) {
        let value = (!record.is_tombstone).then_some(record.payload);
        if let Err(error) = controls.fold(record.key, value) {
            self.metrics.control_refused();
            tracing::warn!(
                offset = record.offset,
                "a silence or an acknowledgement is not understood: {error}"
            );
        }
    }

    fn publish(&self, controls: &Controls) {
        self.shared.store(Arc::new(controls.clone()));
        self.count(controls);
    }

    fn count(&self, controls: &Controls) {
        self.metrics.controls(controls.holding(Timestamp::now().as_millisecond()), controls.acks());
    }
}
