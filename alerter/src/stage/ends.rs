//! Until when everything that was received has been applied, for rules about silence.
//!
//! Kafka is asked where a partition ends. Once the alerter has read to there, it has seen everything that Kafka had at
//! the moment of the question. While Kafka cannot be reached no time is proven, so no device looks silent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use penstock_kafka::{ClientSettings, GroupObserver, KafkaError, TopicPartition};
use penstock_service::waiting::pause;
use tokio_util::sync::CancellationToken;

/// How often Kafka is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer for one partition.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Where a partition ended at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// When Kafka was asked, in milliseconds since the Unix epoch.
    pub(super) at_ms: i64,
    /// The next offset it had then.
    pub(super) next: i64,
}

/// Which partitions to ask about, and what was answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(Arc<Mutex<BTreeMap<i32, Option<End>>>>);

impl Ends {
    /// The partition is of interest.
    pub(super) fn watch(&self, partition: i32) {
        self.0.lock().insert(partition, None);
    }

    /// The partition is of no interest any more.
    pub(super) fn forget(&self, partition: i32) {
        self.0.lock().remove(&partition);
    }

    /// Until when everything is applied, for an alerter that has read to `next`.
    pub(super) fn proven_ms(&self, partition: i32, next: i64) -> Option<i64> {
        self.0.lock().get(&partition).copied().flatten().filter(|end| next >= end.next).map(|end| end.at_ms)
    }

    /// Where the partition ended when Kafka was last asked.
    pub(super) fn end(&self, partition: i32) -> Option<i64> {
        self.0.lock().get(&partition).copied().flatten().map(|end| end.next)
    }

    fn watched(&self) -> Vec<i32> {
        self.0.lock().keys().copied().collect()
    }

    fn set(&self, partition: i32, end: End) {
        if let Some(known) = self.0.lock().get_mut(&partition) {
            *known = Some(end);
        }
    }
}

/// Asks until `stop`.
pub(super) async fn watch(
    ends: Ends,
    client: ClientSettings,
    group: String,
    topic: Arc<str>,
    stop: CancellationToken,
) {
    let observer = Arc::new(Mutex::new(None));
    while pause(EVERY, &stop).await {
        let (ends, client, group) = (ends.clone(), client.clone(), group.clone());
        let (topic, observer) = (Arc::clone(&topic), Arc::clone(&observer));
        let asked = tokio::task::spawn_blocking(move || {
            let mut observer = observer.lock();
            let result = ask(&mut observer, &ends, &client, &group, &topic);
            if result.is_err() {
                *observer = None;
            }
            result
        });
        match asked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("Kafka does not say where partitions end: {error}"),
            Err(panicked) => tracing::error!("asking where partitions end did not end well: {panicked}"),
        }
    }
}

fn ask(
    slot: &mut Option<GroupObserver>,
    ends: &Ends,
    client: &ClientSettings,
    group: &str,
    topic: &Arc<str>,
) -> Result<(), KafkaError> {
    let observer = match slot {
        Some(observer) => observer,
        None => slot.insert(GroupObserver::new(client, group, false)?),
    };
    for partition in ends.watched() {
        let at_ms = now_ms();
        let (_, next) = observer.watermarks(&TopicPartition::new(Arc::clone(topic), partition), TIMEOUT)?;
        ends.set(partition, End { at_ms, next });
    }
    Ok(())
}

/// The wall clock, in milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_proven_for_whoever_has_read_to_where_it_ended() {
        let ends = Ends::default();
        ends.set(3, End { at_ms: 500, next: 10 });
        assert_eq!(ends.proven_ms(3, 10), None, "nobody asked for it");
        ends.watch(3);
        assert_eq!(ends.proven_ms(3, 10), None);
        ends.set(3, End { at_ms: 1_000, next: 10 });
        assert_eq!(ends.proven_ms(3, 9), None);
        assert_eq!(ends.proven_ms(3, 10), Some(1_000));
        assert_eq!(ends.proven_ms(3, 12), Some(1_000));
        ends.forget(3);
        assert_eq!(ends.proven_ms(3, 12), None);
    }
}
