//! Creates topics that are missing and checks those that are there.
//!
//! Never changes or deletes a topic to make it fit: a topic that differs is an error that says how.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::{Client, Code, Event, Queue, TopicInfo, TopicOutcome};
use crate::{ClientSettings, KafkaError};

/// Pause before Kafka is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What a topic must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name, prefix included.
    pub name: String,
    /// Exact number of partitions.
    pub partitions: i32,
    /// Replicas of each partition when it is created; -1: the broker's default. Not checked afterwards.
    pub replication_factor: i32,
    /// Settings of the topic, such as `cleanup.policy`; only these are checked. `max.message.bytes` may be larger.
    pub config: Vec<(String, String)>,
    /// Settings that a topic is created with and that are its operator's afterwards, such as `retention.ms`.
    pub initial: Vec<(String, String)>,
}

/// Topics are not as they must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// Kafka could not be asked in time.
    #[error("Kafka at {brokers} is not reachable: {why}")]
    Unreachable {
        /// The brokers that were tried.
        brokers: String,
        /// The last error.
        why: String,
    },
    /// A topic is there with another number of partitions.
    #[error(
        "topic {topic} has {found} partitions, expected {expected}: keys would move between partitions; \
         use another kafka.topic_prefix, or delete the topic if its records are not needed"
    )]
    WrongPartitions {
        /// Name of the topic.
        topic: String,
        /// Partitions it has.
        found: i32,
        /// Partitions it must have.
        expected: i32,
    },
    /// A topic is there with another value of a setting.
    #[error(
        "topic {topic} has {key}={found}, expected {expected}: set it with kafka-configs, or change the configuration"
    )]
    WrongSetting {
        /// Name of the topic.
        topic: String,
        /// Name of the setting.
        key: String,
        /// Value it has.
        found: String,
        /// Value it must have.
        expected: String,
    },
    /// Kafka refused to create or describe a topic.
    #[error("Kafka refused {what}: {why} ({code})")]
    Refused {
        /// What was asked for.
        what: String,
        /// Name of the error.
        code: String,
        /// The error in words.
        why: String,
    },
    /// The settings of the client itself are wrong, or Kafka refuses the client.
    #[error(transparent)]
    Client(#[from] KafkaError),
}

impl ProvisionError {
    /// Whether trying again later can help without anybody changing anything.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
/// Creates the topics that are missing, waits until every partition has a leader, then checks partitions and settings.
///
/// Several processes may do so at the same time. Takes at most about `timeout`.
///
/// # Errors
/// The first topic that is not as it must be, or what kept Kafka from answering; see [`ProvisionError::is_transient`].
pub async fn provision(
    client: &ClientSettings,
    topics: &[TopicSpec],
    timeout: Duration,
) -> Result<(), ProvisionError> {
    let topics = topics.to_vec();
    with_admin(client, timeout, move |admin| {
        let missing = admin.missing(&topics)?;
        admin.create(&topics, missing)?;
        admin.wait_for_leaders(&topics)?;
        admin.check_settings(&topics)
    })
    .await
}

/// Deletes topics and waits until they are gone; one that is not there is no error. For tests and tools.
///
/// # Errors
/// Kafka refused, or could not be asked in time.
pub async fn delete_topics(
    client: &ClientSettings,
    topics: &[&str],
    timeout: Duration,
) -> Result<(), ProvisionError> {
    let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
    with_admin(client, timeout, move |admin| {
        admin.until_done(topics.clone(), Code::UNKNOWN_TOPIC, "delete topic", |admin, open| {
            admin.client.delete_topics(open, admin.left())
        })?;
        admin.wait_until_gone(&topics)
    })
    .await
}

/// Runs a task that may block, with a client of its own.
async fn with_admin(
    client: &ClientSettings,
    timeout: Duration,
    task: impl FnOnce(&Admin) -> Result<(), ProvisionError> + Send + 'static,
) -> Result<(), ProvisionError> {
    let client = client.clone();
    let work = move || task(&Admin::new(&client, timeout)?);
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ProvisionError::Refused {
            what: "the administration of topics".into(),
            code: "TASK".into(),
            why: error.to_string(),
        }),
    }
}

struct Admin {
    client: Arc<Client>,
    errors: Queue,
    brokers: String,
    deadline: Instant,
}

impl Admin {
    fn new(client: &ClientSettings, timeout: Duration) -> Result<Self, ProvisionError> {
        let made = Arc::new(Client::producer(&client.admin_properties()?)?);
        let errors = Queue::main(&made).ok_or_else(|| Code::INVALID_ARG.error("open a queue"))?;
        let deadline = Instant::now() + timeout;
        Ok(Self { client: made, errors, brokers: client.brokers.clone(), deadline })
    }

    /// At least a moment, so that a call made at the deadline fails by itself.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(10))
    }

    /// Whether there is time for another attempt; waits before it.
    fn pause(&self) -> bool {
        let again = Instant::now() + RETRY_PAUSE < self.deadline;
        if again {
            thread::sleep(RETRY_PAUSE);
        }
        again
    }

    /// What the client complained about says more than the timeout that follows from it.
    fn unreachable(&self, error: String) -> ProvisionError {
        let mut why = error;
        self.errors.drain(Duration::ZERO, |event| {
            if let Event::Error { code, why: complaint, .. } = event
                && code != Code::ALL_BROKERS_DOWN
            {
                why = complaint;
            }
        });
        ProvisionError::Unreachable { brokers: self.brokers.clone(), why }
    }

    /// Calls until the answer is no passing error, or time is up.
    fn ask<T>(&self, mut call: impl FnMut() -> Result<T, KafkaError>) -> Result<T, ProvisionError> {
        loop {
            match call() {
                Ok(answer) => return Ok(answer),
                Err(error) if !error.is_transient() => return Err(error.into()),
                Err(error) if !self.pause() => return Err(self.unreachable(error.to_string())),
                Err(_) => {}
            }
        }
    }

    /// Every topic of the cluster. Asking for one by name could create it with the broker's defaults.
    fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, ProvisionError> {
        self.ask(|| self.client.topics(self.left()).map_err(|code| code.error("list the topics")))
    }

    fn missing(&self, topics: &[TopicSpec]) -> Result<Vec<String>, ProvisionError> {
        let found = self.topics()?;
        let missing = topics.iter().filter(|topic| !found.contains_key(&topic.name));
        Ok(missing.map(|topic| topic.name.clone()).collect())
    }

    fn create(&self, topics: &[TopicSpec], missing: Vec<String>) -> Result<(), ProvisionError> {
        self.until_done(missing, Code::TOPIC_EXISTS, "create topic", |admin, open| {
            let specs: Vec<_> = topics.iter().filter(|topic| open.contains(&topic.name)).collect();
            admin.client.create_topics(&specs, admin.left())
        })
    }

    /// Repeats a call for the topics it has not succeeded for. The code `done` counts as success: somebody else has
    /// done it.
    fn until_done(
        &self,
        mut open: Vec<String>,
        done: Code,
        what: &str,
        call: impl Fn(&Self, &[String]) -> Result<Vec<TopicOutcome>, KafkaError>,
    ) -> Result<(), ProvisionError> {
        while !open.is_empty() {
            let mut failed = self.ask(|| call(self, &open))?;
            failed.retain(|outcome| outcome.code != Code::NONE && outcome.code != done);
            let hopeless = failed.iter().find(|outcome| !may_pass(outcome.code));
            if let Some(outcome) = hopeless.or_else(|| if self.pause() { None } else { failed.first() }) {
                return Err(ProvisionError::Refused {
                    what: format!("to {what} {}", outcome.topic),
                    code: outcome.code.name(),
                    why: outcome.why.clone(),
                });
            }
            open = failed.into_iter().map(|outcome| outcome.topic).collect();
        }
        Ok(())
    }

    /// Waits until every partition of every topic has a leader, and checks how many there are.
    fn wait_for_leaders(&self, topics: &[TopicSpec]) -> Result<(), ProvisionError> {
        loop {
            let found = self.topics()?;
            let mut waiting = None;
            for topic in topics {
                match found.get(&topic.name) {
                    Some(found) if found.partitions > 0 && found.partitions != topic.partitions => {
                        return Err(ProvisionError::WrongPartitions {
                            topic: topic.name.clone(),
                            found: found.partitions,
                            expected: topic.partitions,
                        });
                    }
                    Some(found) if found.partitions > 0 && found.is_led => {}
                    _ => waiting = Some(&topic.name),
                }
            }
            let Some(topic) = waiting else { return Ok(()) };
            if !self.pause() {
                return Err(self.unreachable(format!("topic {topic} has a partition without a leader")));
            }
        }
    }

    fn wait_until_gone(&self, topics: &[String]) -> Result<(), ProvisionError> {
        loop {
            let found = self.topics()?;
            let Some(topic) = topics.iter().find(|topic| found.contains_key(*topic)) else { return Ok(()) };
            if !self.pause() {
                return Err(self.unreachable(format!("topic {topic} is deleted but still there")));
            }
        }
    }

    fn check_settings(&self, topics: &[TopicSpec]) -> Result<(), ProvisionError> {
        let topics: Vec<_> = topics.iter().filter(|topic| !topic.config.is_empty()).collect();
        if topics.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let mut found = self.ask(|| self.client.topic_settings(&names, self.left()))?;
        for topic in topics {
            let settings = found.remove(&topic.name).unwrap_or_else(|| Ok(BTreeMap::new()));
            let settings = settings.map_err(|(code, why)| ProvisionError::Refused {
                what: format!("to describe topic {}", topic.name),
                code: code.name(),
                why,
            })?;
            for (key, expected) in &topic.config {
                let found = settings.get(key).map_or("", String::as_str);
                if !satisfies(key, found, expected) {
                    return Err(ProvisionError::WrongSetting {
                        topic: topic.name.clone(),
                        key: key.clone(),
                        found: found.to_owned(),
                        expected: expected.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Whether an error may be gone a moment later. Too few brokers are, while a cluster starts.
fn may_pass(code: Code) -> bool {
    code.is_retriable() || code == Code::TOO_FEW_BROKERS
}

/// Whether a setting is as it must be: a size may be larger, and lists have no order.
fn satisfies(key: &str, found: &str, expected: &str) -> bool {
    if key == "max.message.bytes"
        && let (Ok(found), Ok(expected)) = (found.parse::<u64>(), expected.parse::<u64>())
    {
        return found >= expected;
    }
    let sorted = |value: &str| {
        let mut parts: Vec<_> = value.split(',').map(|part| part.trim().to_owned()).collect();
        parts.sort();
        parts
    };
    sorted(found) == sorted(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_without_their_order() {
        assert!(satisfies("cleanup.policy", "compact,delete", "delete, compact"));
        assert!(satisfies("retention.ms", "604800000", "604800000"));
        assert!(!satisfies("retention.ms", "604800000", "60480000"));
        assert!(!satisfies("cleanup.policy", "", "compact"));
    }

    #[test]
    fn a_topic_may_take_larger_records_than_it_must() {
        assert!(satisfies("max.message.bytes", "1048588", "1048576"));
        assert!(satisfies("max.message.bytes", "1048576", "1048576"));
        assert!(!satisfies("max.message.bytes", "1048575", "1048576"));
    }

    #[test]
    fn only_an_unreachable_kafka_is_a_passing_error() {
        let unreachable = ProvisionError::Unreachable { brokers: "kafka:9092".into(), why: "refused".into() };
        let wrong = ProvisionError::WrongPartitions { topic: "readings".into(), found: 1, expected: 48 };
        assert!(unreachable.is_transient());
        assert!(!wrong.is_transient());
    }
}
