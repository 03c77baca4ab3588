//! Measures when readings become queryable.
//!
//! Method: a few devices of the fleet report the readings they hand over. Every 20 ms the probe asks ClickHouse, with one
//! small query, which of those not seen yet are there, and takes the moment the answer was read as the moment they became
//! visible. The latency is that moment minus the moment of the first hand-over to the MQTT client. It is an upper bound:
//! too long by up to one interval and one query, never too short.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickhouse::Client;
use penstock_proto::DeviceId;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::device::Sample;
use crate::stats::Stats;
use crate::store::{ClickHouseTarget, RowKey, rows_query};

/// How many devices report readings at most.
pub(crate) const DEVICES_MAX: usize = 8;
/// Readings reported and not yet taken up by the probe.
pub(crate) const SAMPLES_QUEUED_MAX: usize = 64;
const INTERVAL: Duration = Duration::from_millis(20);
/// Readings looked for at one time; further ones are not measured.
const PENDING_MAX: usize = 1_024;
/// After the run, this long for what is not seen yet.
const LINGER: Duration = Duration::from_secs(10);
/// A reading not seen after this long is given up: it counts as this long.
const GIVE_UP: Duration = Duration::from_secs(60);

pub(crate) struct Probe {
    client: Client,
    samples: mpsc::Receiver<Sample>,
    stats: Arc<Stats>,
    pending: HashMap<(DeviceId, u64, i64), Instant>,
}

impl Probe {
    pub(crate) fn new(target: &ClickHouseTarget, samples: mpsc::Receiver<Sample>, stats: Arc<Stats>) -> Self {
        // The probe must not take the processors from what it measures.
        let client = target.client().with_setting("max_threads", "1");
        Self { client, samples, stats, pending: HashMap::new() }
    }

    /// Measures until the run has stopped and everything is seen, or a little longer at most.
    pub(crate) async fn run(mut self, stopped: CancellationToken) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_round = None;
        loop {
            interval.tick().await;
            self.take_up();
            if stopped.is_cancelled() {
                let deadline = *last_round.get_or_insert_with(|| Instant::now() + LINGER);
                if self.pending.is_empty() || Instant::now() >= deadline {
                    break;
                }
            }
            if !self.pending.is_empty() {
                self.look().await;
            }
        }
        // Left out, the slowest would make the percentiles look better.
        self.pending.values().for_each(|sent| self.stats.queryable.record(sent.elapsed()));
    }

    fn take_up(&mut self) {
        while let Ok(Sample { device, sequence, timestamp_ms, sent }) = self.samples.try_recv() {
            if self.pending.len() < PENDING_MAX {
                self.pending.insert((device, sequence, timestamp_ms), sent);
            }
        }
    }

    async fn look(&mut self) {
        let mut devices: Vec<_> = self.pending.keys().map(|(device, _, _)| *device).collect();
        devices.sort_unstable();
        devices.dedup();
        let timestamps = self.pending.keys().map(|(_, _, timestamp_ms)| *timestamp_ms);
        let (from_ms, to_ms) = timestamps.fold((i64::MAX, i64::MIN), |(a, b), ms| (a.min(ms), b.max(ms)));
        let query = rows_query("readings", &devices, from_ms, to_ms);
        match self.client.query(&query).fetch_all::<RowKey>().await {
            Ok(rows) => {
                let now = Instant::now();
                for row in rows {
                    let key = (DeviceId::from(row.device_id), row.sequence, row.timestamp_ms);
                    if let Some(sent) = self.pending.remove(&key) {
                        self.stats.queryable.record(now.saturating_duration_since(sent));
                    }
                }
            }
            // ClickHouse may be down on purpose: then the readings take longer, and that is what is measured.
            Err(error) => tracing::debug!(%error, "the probe's query failed"),
        }
        let stats = &self.stats;
        self.pending.retain(|_, sent| {
            let keep = sent.elapsed() < GIVE_UP;
            if !keep {
                stats.queryable.record(GIVE_UP);
            }
            keep
        });
    }
}
