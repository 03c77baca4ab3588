//! What goes through the chain while faults are injected: a fleet with a ledger, and a trickle of records that are no
//! readings, written to the readings topic behind the gateway's back.

use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{Outgoing, Producer, ProducerSettings};
use penstock_loadgen::{Fleet, FleetError, Ledger, Qos, Report, Stats, Version};
use penstock_proto::topics;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::site::Site;

/// Begins every record of the trickle; no protobuf message begins so.
pub const UNDECODABLE: &[u8] = b"\xff\xffno reading";
const TRICKLE_EVERY: Duration = Duration::from_millis(100);
const FLUSH: Duration = Duration::from_secs(60);
/// Without any acknowledgement for this long devices give up.
const PATIENCE: Duration = Duration::from_secs(300);
/// One reading in this many was measured up to two months before.
const LATE_FRACTION: f64 = 0.03;
/// Room for the sequence numbers of a round.
const SEQUENCES_A_ROUND: u64 = 10_000_000;

/// The load of one round.
pub struct Load {
    fleet: JoinHandle<Result<(Ledger, Report), FleetError>>,
    trickle: JoinHandle<u64>,
    /// No more readings when it is dropped.
    stop: DropGuard,
    stats: Arc<Stats>,
}

impl Load {
    /// Starts it. The devices are the same in every round; how they speak alternates.
    ///
    /// # Panics
    /// Where clients cannot be made.
    pub fn start(runtime: &Runtime, site: &Site, round: u64, devices: usize, rate: f64) -> Self {
        let stop = CancellationToken::new();
        let mut options = site.chain.fleet();
        (options.devices, options.rate, options.late_fraction) = (devices, rate, LATE_FRACTION);
        options.first_sequence = 1 + round * SEQUENCES_A_ROUND;
        options.ack_timeout = Duration::from_secs(30);
        // Faults that follow one another can keep Kafka away for longer than a fleet has patience otherwise.
        options.drain_timeout = PATIENCE;
        (options.version, options.qos, options.batch) = match round % 3 {
            0 => (Version::V5, Qos::AtLeastOnce, 1),
            1 => (Version::V311, Qos::AtLeastOnce, 5),
            _ => (Version::V5, Qos::ExactlyOnce, 1),
        };
        let fleet = Fleet::new(options).unwrap();
        let stats = fleet.stats();
        let producer = Producer::new(&site.chain.kafka(), &ProducerSettings::default()).unwrap();
        let topic = format!("{}{}", site.chain.prefix, topics::READINGS);
        let trickle = runtime.spawn(trickle(producer, topic, stop.clone()));
        let fleet = runtime.spawn(fleet.run(stop.clone()));
        Self { fleet, trickle, stop: stop.drop_guard(), stats }
    }

    /// Readings acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.stats.acked.get()
    }

    /// No more readings; waits until devices and trickle have had their answers. The number is that of the trickle's
    /// records.
    ///
    /// # Panics
    /// Where the fleet could not do its work.
    pub fn finish(self, runtime: &Runtime) -> (Arc<Ledger>, Report, u64) {
        drop(self.stop);
        let (ledger, report) = runtime.block_on(self.fleet).unwrap().unwrap();
        let records = runtime.block_on(self.trickle).unwrap();
        (Arc::new(ledger), report, records)
    }
}

async fn trickle(producer: Producer, topic: String, stop: CancellationToken) -> u64 {
    let topic = producer.topic(&topic).unwrap();
    let mut every = tokio::time::interval(TRICKLE_EVERY);
    let mut sent = 0u64;
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let payload = [UNDECODABLE, sent.to_string().as_bytes()].concat();
        // Keys of a device, of none, and none at all, over all partitions.
        let key = uuid::Uuid::new_v4().into_bytes();
        let key = match sent % 3 {
            0 => Some(&key[..]),
            1 => Some(&key[..5]),
            _ => None,
        };
        let record = Outgoing {
            topic: &topic,
            key,
            payload: &payload,
            timestamp_ms: None,
            headers: &[],
            partition: None,
        };
        // Nobody waits for the receipt: the oracle reads from Kafka what became a record.
        let (completion, _) = penstock_kafka::receipt();
        sent += u64::from(producer.send(record, completion).is_ok());
    }
    assert!(producer.flush(FLUSH).await, "undecodable records are still on their way");
    sent
}
