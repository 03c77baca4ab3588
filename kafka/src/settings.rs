//! Settings of the clients, and the librdkafka properties they become.
//!
//! Never lets a property of the user weaken a guarantee: those are errors, not silent overrides.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_proto::topics::CONTRACTS;

use crate::KafkaError;

/// How to reach Kafka; the same for producers, consumers and administration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Bootstrap brokers, `host:port` separated by commas.
    pub brokers: String,
    /// Name of this client in Kafka's logs, metrics and quotas.
    pub client_id: String,
    /// Any librdkafka property. It wins over Penstock's choice, except where that choice carries a guarantee: then the
    /// client is not created and the error names the property.
    pub properties: BTreeMap<String, String>,
}

/// How records are batched, bounded and given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSettings {
    /// How long a record may wait for others before it is sent, in milliseconds.
    pub linger_ms: u64,
    /// How long a record may stay unconfirmed before its receipt resolves to `TimedOut`, in milliseconds; at least 1.
    pub delivery_timeout_ms: u64,
    /// Bytes (keys, payloads, headers) that may be outstanding; rounded up to a KiB.
    pub queue_bytes_max: usize,
    /// Records that may be outstanding; at least 1.
    pub queue_records_max: usize,
    /// `none`, `lz4`, `zstd`, `snappy` or `gzip`.
    pub compression: String,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            linger_ms: 5,
            delivery_timeout_ms: 30_000,
            queue_bytes_max: 256 << 20,
            queue_records_max: 500_000,
            compression: "lz4".into(),
        }
    }
}

/// A producer of transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSettings {
    /// Who writes: opening a producer with an id fences every earlier one that has it. Not empty.
    pub transactional_id: String,
    /// After this long the coordinator aborts a transaction that a dead or stuck producer left open; readers with
    /// `read_committed` wait for so long, and a record that is not delivered by then fails. At least 1 s, and at most
    /// the broker's `transaction.max.timeout.ms` (15 minutes). Counted from a transaction's first record or offset.
    pub timeout: Duration,
    /// Bytes (keys, payloads, headers) that may be undelivered; rounded up to a KiB. [`crate::Transaction::send`]
    /// waits when they are reached.
    pub queue_bytes_max: usize,
}

impl Default for TransactionSettings {
    /// 10 s and 64 MiB, without a transactional id: that has to be set.
    fn default() -> Self {
        Self { transactional_id: String::new(), timeout: Duration::from_secs(10), queue_bytes_max: 64 << 20 }
    }
}

/// What a consumer reads, as whom, and how much it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// Name of the consumer group.
    pub group: String,
    /// Topics to subscribe to.
    pub topics: Vec<String>,
    /// Bytes that librdkafka may hold for all partitions together, before anything is handed out; rounded up to a KiB.
    pub fetch_bytes_max: usize,
    /// After this long without a heartbeat the group gives the partitions to others, in milliseconds.
    pub session_timeout_ms: u64,
    /// Static membership: a restart within the session timeout keeps its partitions. Must be unique in the group.
    pub instance_id: Option<String>,
    /// Hand out records of committed transactions only. Committed offsets are then "stable" ones as well: while a
    /// transaction that has sent offsets of a partition is open, Kafka does not say where to start reading it
    /// (librdkafka asks for that with `isolation.level=read_committed`, here and for [`crate::Consumer::committed`]).
    pub read_committed: bool,
}

/// Properties that carry a guarantee or that this crate's own work depends on, and why they are not to be set.
const GUARDED: &[(&str, &str)] = &[
    ("acks", "a reading is acknowledged only after all in-sync replicas have it"),
    ("request.required.acks", "a reading is acknowledged only after all in-sync replicas have it"),
    ("enable.idempotence", "retries must not store a reading twice or out of order"),
    ("enable.auto.commit", "offsets are committed only after the work they stand for"),
    ("auto.commit.enable", "offsets are committed only after the work they stand for"),
    ("enable.auto.offset.store", "offsets are committed only after the work they stand for"),
    ("group.id", "the group belongs to the role, see its own section"),
    ("group.instance.id", "static membership is set by the role"),
    ("isolation.level", "who reads decides whether open transactions are visible"),
    ("partitioner", "one device is one partition, the one that Java's partitioner has"),
    ("transactional.id", "transactions are set up by the role that uses them"),
    ("transaction.timeout.ms", "transactions are set up by the role that uses them"),
    ("enable.partition.eof", "the scanner depends on it"),
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
];

/// Records that travel together, in bytes; librdkafka's default.
const BATCH_BYTES_MAX: u32 = 1_000_000;

/// librdkafka properties in the order they are set; later ones win.
pub(crate) type Properties = Vec<(String, String)>;

fn set(properties: &mut Properties, name: &str, value: &impl ToString) {
    properties.push((name.to_owned(), value.to_string()));
}

/// Bytes as whole KiB, at least one, as librdkafka's `*.kbytes` properties want them.
const fn kbytes(bytes: usize) -> usize {
    let kbytes = bytes.div_ceil(1024);
    if kbytes == 0 { 1 } else { kbytes }
}

/// `value`, unless `property` is one whose value must not be shown.
pub(crate) fn shown(property: &str, value: &str) -> String {
    let secret =
        ["password", "secret", "key.pem", "sasl.jaas", "token"].iter().any(|part| property.contains(part));
    if secret { "***".to_owned() } else { value.to_owned() }
}

impl ClientSettings {
    /// Properties of every client; `ours` come after them, the user's last.
    fn properties(&self, ours: Properties) -> Result<Properties, KafkaError> {
        let mut all = Properties::new();
        set(&mut all, "bootstrap.servers", &self.brokers);
        set(&mut all, "client.id", &self.client_id);
        // Service must come back within seconds after Kafka did, so retries start early and stay frequent.
        set(&mut all, "reconnect.backoff.ms", &50);
        set(&mut all, "reconnect.backoff.max.ms", &1_000);
        set(&mut all, "socket.keepalive.enable", &true);
        set(&mut all, "socket.connection.setup.timeout.ms", &10_000);
        // A coordinator or leader that moved is looked up again soon, and a new topic is seen soon.
        set(&mut all, "topic.metadata.refresh.interval.ms", &60_000);
        set(&mut all, "metadata.max.age.ms", &180_000);
        all.extend(ours);
        for (property, value) in &self.properties {
            if let Some((_, why)) = GUARDED.iter().find(|(guarded, _)| guarded == property) {
                return Err(KafkaError::Config {
                    property: property.clone(),
                    value: shown(property, value),
                    why: format!("Penstock sets it itself: {why}"),
                });
            }
            set(&mut all, property, value);
        }
        Ok(all)
    }

    /// Properties of a client that only asks and administers.
    pub(crate) fn admin_properties(&self) -> Result<Properties, KafkaError> {
        self.properties(Properties::new())
    }
}

impl ProducerSettings {
    /// Properties of a producer.
    pub(crate) fn properties(&self, client: &ClientSettings) -> Result<Properties, KafkaError> {
        client.properties(self.ours())
    }

    fn ours(&self) -> Properties {
        let mut ours = Properties::new();
        set(&mut ours, "acks", &"all");
        set(&mut ours, "enable.idempotence", &true);
        set(&mut ours, "max.in.flight.requests.per.connection", &5);
        set(&mut ours, "partitioner", &"murmur2_random");
        set(&mut ours, "linger.ms", &self.linger_ms);
        // librdkafka takes 0 as "never", which would be a receipt without an end.
        set(&mut ours, "message.timeout.ms", &self.delivery_timeout_ms.max(1));
        set(&mut ours, "queue.buffering.max.kbytes", &kbytes(self.queue_bytes_max));
        // librdkafka takes 0 as "no limit".
        set(&mut ours, "queue.buffering.max.messages", &self.queue_records_max.max(1));
        set(&mut ours, "compression.codec", &self.compression);
        set(&mut ours, "batch.num.messages", &10_000);
        // One record may fill the topic with the largest limit; several together must fit into any of them.
        let limits = || CONTRACTS.iter().map(|contract| contract.record_bytes_max);
        set(&mut ours, "message.max.bytes", &limits().max().unwrap_or(BATCH_BYTES_MAX));
        set(
            &mut ours,
            "batch.size",
            &limits().min().map_or(BATCH_BYTES_MAX, |least| least.min(BATCH_BYTES_MAX)),
        );
        ours
    }
}

impl TransactionSettings {
    /// Properties of a producer of transactions.
    pub(crate) fn properties(&self, client: &ClientSettings) -> Result<Properties, KafkaError> {
        if self.transactional_id.is_empty() {
            return Err(KafkaError::Config {
                property: "transactional.id".into(),
                value: String::new(),
                why: "a producer of transactions needs an id of its own: it is what fences its predecessor"
                    .into(),
            });
        }
        let timeout_ms = self.timeout.as_millis();
        let producer = ProducerSettings {
            // A record that outlives the transaction is of no use.
            delivery_timeout_ms: u64::try_from(timeout_ms).unwrap_or(u64::MAX),
            queue_bytes_max: self.queue_bytes_max,
            ..ProducerSettings::default()
        };
        let mut ours = Properties::new();
        set(&mut ours, "transactional.id", &self.transactional_id);
        // Before the delivery timeout, so that the error about a bad value names the setting.
        set(&mut ours, "transaction.timeout.ms", &timeout_ms);
        ours.extend(producer.ours());
        // Until the one before is written off, Kafka answers that transactions run into one another; that takes some
        // milliseconds, and librdkafka's default would wait for 100.
        set(&mut ours, "retry.backoff.ms", &10);
        client.properties(ours)
    }
}

impl ConsumerSettings {
    /// Properties of a member of a group.
    pub(crate) fn properties(&self, client: &ClientSettings) -> Result<Properties, KafkaError> {
        let mut ours = reader_properties(&self.group, self.fetch_bytes_max, self.read_committed);
        set(&mut ours, "session.timeout.ms", &self.session_timeout_ms);
        set(&mut ours, "heartbeat.interval.ms", &(self.session_timeout_ms / 3).clamp(1, 3_000));
        set(&mut ours, "partition.assignment.strategy", &"cooperative-sticky");
        if let Some(instance_id) = &self.instance_id {
            set(&mut ours, "group.instance.id", &instance_id);
        }
        client.properties(ours)
    }
}

/// Properties of a client that reads given partitions without a group.
pub(crate) fn scanner_properties(
    client: &ClientSettings,
    read_committed: bool,
) -> Result<Properties, KafkaError> {
    const SCAN_BYTES_MAX: usize = 32 << 20;
    // librdkafka wants a group's name to make a consumer at all; without a subscription it never joins it.
    let mut ours = reader_properties("penstock-scanner", SCAN_BYTES_MAX, read_committed);
    set(&mut ours, "enable.partition.eof", &true);
    client.properties(ours)
}

/// For asking about a group without joining it.
pub(crate) fn observer_properties(
    client: &ClientSettings,
    group: &str,
    read_committed: bool,
) -> Result<Properties, KafkaError> {
    client.properties(reader_properties(group, 1 << 20, read_committed))
}

fn reader_properties(group: &str, fetch_bytes_max: usize, read_committed: bool) -> Properties {
    let mut ours = Properties::new();
    set(&mut ours, "group.id", &group);
    set(&mut ours, "enable.auto.commit", &false);
    set(&mut ours, "enable.auto.offset.store", &false);
    set(&mut ours, "auto.offset.reset", &"earliest");
    set(&mut ours, "allow.auto.create.topics", &false);
    set(&mut ours, "enable.partition.eof", &false);
    set(&mut ours, "isolation.level", &if read_committed { "read_committed" } else { "read_uncommitted" });
    // The default of a second stalls a consumer that is faster than its fetches.
    set(&mut ours, "fetch.queue.backoff.ms", &10);
    set(&mut ours, "fetch.wait.max.ms", &100);
    set(&mut ours, "queued.min.messages", &100_000);
    set(&mut ours, "queued.max.messages.kbytes", &kbytes(fetch_bytes_max));
    // What is queued may be exceeded by one response, so that is small beside it. librdkafka wants at least one
    // message of the largest size.
    set(&mut ours, "fetch.max.bytes", &(fetch_bytes_max / 4).clamp(1 << 20, 50 << 20));
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(properties: &[(&str, &str)]) -> ClientSettings {
        ClientSettings {
            brokers: "kafka:9092".into(),
            client_id: "test".into(),
            properties: properties
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
        }
    }

    /// The value that wins.
    fn value<'p>(properties: &'p Properties, name: &str) -> Option<&'p str> {
        properties.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn properties_of_the_user_win_over_ours() {
        let properties = ProducerSettings::default().properties(&client(&[("linger.ms", "50")])).unwrap();
        assert_eq!(value(&properties, "linger.ms"), Some("50"));
        assert_eq!(value(&properties, "acks"), Some("all"));
        assert_eq!(value(&properties, "enable.idempotence"), Some("true"));
    }

    #[test]
    fn properties_that_carry_a_guarantee_are_refused_by_name() {
        for (guarded, _) in GUARDED {
            let error = ProducerSettings::default().properties(&client(&[(guarded, "0")])).unwrap_err();
            assert!(matches!(&error, KafkaError::Config { property, .. } if property == guarded), "{error}");
            assert!(!error.is_transient());
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("sasl.password", "hunter2"), "***");
        assert_eq!(shown("ssl.key.password", "hunter2"), "***");
        assert_eq!(shown("ssl.ca.location", "ca.pem"), "ca.pem");
    }

    #[test]
    fn a_limit_never_becomes_librdkafkas_zero_for_no_limit() {
        let settings = ProducerSettings {
            delivery_timeout_ms: 0,
            queue_bytes_max: 0,
            queue_records_max: 0,
            ..ProducerSettings::default()
        };
        let properties = settings.properties(&client(&[])).unwrap();
        for name in ["message.timeout.ms", "queue.buffering.max.kbytes", "queue.buffering.max.messages"] {
            assert_eq!(value(&properties, name), Some("1"), "{name}");
        }
    }
}
