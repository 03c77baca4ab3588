//! The Kafka cluster of a configuration: its topics by their names in the contract, read to where they end.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use penstock_kafka::{
    Batch, ClientSettings, GroupObserver, KafkaError, ScanFrom, Scanner, TopicPartition, provision,
    topic_specs,
};
use penstock_proto::topics::CONTRACTS;
use penstock_service::Config;
use tokio::runtime::Handle;

use crate::OperatorError;

/// Without a record for this long, though the end is not reached, a scan is given up.
const STALLED: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);
/// How long Kafka may take to answer one question.
const ANSWER: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The Kafka cluster of a configuration.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) settings: ClientSettings,
    pub(crate) prefix: String,
    replication_factor: i16,
}

impl Cluster {
    /// The cluster of `[kafka]`. Does not connect yet.
    pub fn new(config: &Config) -> Self {
        Self {
            settings: ClientSettings {
                brokers: config.kafka.brokers.clone(),
                client_id: "penstock-operator".to_owned(),
                properties: config.kafka.properties.clone(),
            },
            prefix: config.kafka.topic_prefix.clone(),
            replication_factor: config.kafka.replication_factor,
        }
    }

    /// How to reach it.
    pub const fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// What stands before every topic's name.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A topic of the contract as the cluster has it: with the configured prefix.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Creates a topic of the contract where it is missing, and checks it where it is there.
    pub(crate) fn provide(&self, name: &str, runtime: &Handle) -> Result<(), OperatorError> {
        let wanted = self.topic(name);
        let mut specs = topic_specs(&self.prefix, self.replication_factor);
        specs.retain(|spec| spec.name == wanted);
        Ok(runtime.block_on(provision(&self.settings, &specs, ANSWER))?)
    }

    /// Reads committed records of a topic of the contract to where it ends now, or until `each` breaks.
    pub(crate) fn scan<B>(
        &self,
        name: &str,
        from: &ScanFrom,
        records_max: usize,
        mut each: impl FnMut(&Batch<'_>) -> Result<ControlFlow<B>, OperatorError>,
    ) -> Result<Option<B>, OperatorError> {
        let topic = self.topic(name);
        let failed = |cause: KafkaError| {
            if is_unknown_topic(&cause) {
                OperatorError::NoTopic(topic.clone())
            } else {
                OperatorError::Kafka { topic: topic.clone(), cause }
            }
        };
        let mut scanner = Scanner::open(&self.settings, &topic, from, true).map_err(failed)?;
        let mut came_at = Instant::now();
        loop {
            let Some(batch) = scanner.next_batch(records_max, POLL).map_err(failed)? else { return Ok(None) };
            if !batch.is_empty() {
                if let ControlFlow::Break(found) = each(&batch)? {
                    return Ok(Some(found));
                }
                came_at = Instant::now();
                continue;
            }
            drop(batch);
            if came_at.elapsed() >= STALLED {
                let because = scanner.last_error().map_or_else(String::new, |error| format!(": {error}"));
                return Err(OperatorError::Stalled { topic, waited_s: STALLED.as_secs(), because });
            }
        }
    }

    /// Somebody who can be asked about the offsets of a topic of the contract and of a group.
    pub(crate) fn inquire(&self, name: &str, group: &str) -> Result<Inquiry, OperatorError> {
        let topic = self.topic(name);
        let observer = GroupObserver::new(&self.settings, group, true)
            .map_err(|cause| OperatorError::Kafka { topic: topic.clone(), cause })?;
        let partitions = CONTRACTS.iter().find(|contract| contract.name == name);
        Ok(Inquiry {
            observer,
            partitions: partitions.map_or(0, |contract| i32::from(contract.partitions)),
            topic,
        })
    }
}

/// Asks Kafka about offsets of one topic. Never a member of a group.
pub(crate) struct Inquiry {
    observer: GroupObserver,
    topic: String,
    partitions: i32,
}

impl Inquiry {
    fn ask<T>(&self, question: impl Fn(&GroupObserver) -> Result<T, KafkaError>) -> Result<T, OperatorError> {
        let began = Instant::now();
        loop {
            match question(&self.observer) {
                Ok(answer) => return Ok(answer),
                Err(cause) if is_unknown_topic(&cause) || is_unknown_partition(&cause) => {
                    return Err(OperatorError::NoTopic(self.topic.clone()));
                }
                Err(cause) if !cause.is_transient() || began.elapsed() >= ANSWER => {
                    return Err(OperatorError::Kafka { topic: self.topic.clone(), cause });
                }
                Err(_) => std::thread::sleep(RETRY_PAUSE),
            }
        }
    }

    /// Number of partitions in the contract.
    pub(crate) const fn partitions(&self) -> i32 {
        self.partitions
    }

    fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), partition)
    }

    fn every(&self) -> impl Iterator<Item = TopicPartition> {
        (0..self.partitions).map(|partition| self.partition(partition))
    }

    /// The oldest offset, and the first that a reader of committed records does not get (yet).
    pub(crate) fn watermarks(&self, partition: i32) -> Result<(i64, i64), OperatorError> {
        let partition = self.partition(partition);
        self.ask(|observer| observer.watermarks(&partition, ANSWER))
    }

    /// For each partition the first offset whose record is not older; `None` where all are.
    pub(crate) fn at_time(&self, ms: i64) -> Result<Vec<Option<i64>>, OperatorError> {
        let times: Vec<_> = self.every().map(|partition| (partition, ms)).collect();
        let found = self.ask(|observer| observer.offsets_for_times(&times, ANSWER))?;
        Ok(self.in_order(found))
    }

    /// What the group has committed in each partition.
    pub(crate) fn committed(&self) -> Result<Vec<Option<i64>>, OperatorError> {
        let partitions: Vec<_> = self.every().collect();
        let found = self.ask(|observer| observer.committed(&partitions, ANSWER))?;
        Ok(self.in_order(found))
    }

    fn in_order(&self, found: Vec<(TopicPartition, Option<i64>)>) -> Vec<Option<i64>> {
        let mut offsets = vec![None; usize::try_from(self.partitions).unwrap_or(0)];
        for (partition, offset) in found {
            if let Some(place) =
                usize::try_from(partition.partition).ok().and_then(|index| offsets.get_mut(index))
            {
                *place = offset;
            }
        }
        offsets
    }
}

fn is_unknown_topic(error: &KafkaError) -> bool {
    let names = ["_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_OR_PARTITION", "UNKNOWN_TOPIC_OR_PART"];
    matches!(error, KafkaError::Client { code, .. } if names.contains(&code.as_str()))
}

/// How librdkafka calls a topic that is not there when it is asked about one of its partitions.
fn is_unknown_partition(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Client { code, .. } if code == "_UNKNOWN_PARTITION")
}
