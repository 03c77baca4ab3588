//! The keys of `penstock.toml`: what they are called, what they mean, their defaults and limits. Nothing
//! else.
//!
//! The documentation here is also the text of `docs/CONFIGURATION.md` and `deploy/penstock.toml`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::secret::Secret;
use super::section::{choice, section};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The largest packet that can be configured: 4 MiB, what the dead-letter topic takes, less room for its headers.
pub const PACKET_BYTES_MAX: i64 = 4 * 1024 * 1024 - 64 * 1024;

/// The largest reading that can be configured: 1 MiB, what the readings topic takes, less room for Kafka's own fields.
pub const READING_BYTES_MAX: i64 = 1024 * 1024 - 4 * 1024;

section! {
    /// Everything that can be configured.
    pub struct Config {
        /// MQTT over TLS.
        gateway: Gateway = Gateway::default();
        /// The Kafka cluster.
        kafka: Kafka = Kafka::default();
        /// From an MQTT publish to a Kafka record.
        bridge: Bridge = Bridge::default();
        /// From Kafka to ClickHouse.
        writer: Writer = Writer::default();
        /// The ClickHouse server.
        clickhouse: ClickHouse = ClickHouse::default();
        /// Rules over readings, and the alerts they raise.
        alerts: Alerts = Alerts::default();
        /// From the alert topics to people.
        notify: Notify = Notify::default();
        /// Logs, metrics and health.
        telemetry: Telemetry = Telemetry::default();
    }
}

section! {
    /// Where devices connect: MQTT 3.1.1 and 5 over TLS with client certificates.
    pub struct Gateway {
        /// IP address and port to listen on.
        listen: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8883);
        /// Certificates.
        tls: GatewayTls = GatewayTls::default();
        /// Limits.
        limits: GatewayLimits = GatewayLimits::default();
    }
}

section! {
    /// The certificates of the gateway. SIGHUP loads the files again without closing a connection.
    pub struct GatewayTls {
        /// PEM file with the server's certificate, followed by its intermediates.
        cert_file: PathBuf = PathBuf::from("certs/server.pem");
        /// PEM file with the server's private key.
        key_file: PathBuf = PathBuf::from("certs/server.key");
        /// PEM file with the certificate authorities that sign device certificates.
        client_ca_file: PathBuf = PathBuf::from("certs/ca.pem");
        /// PEM files with certificate revocation lists; a device whose certificate is on one is refused.
        crl_files: Vec<PathBuf> = Vec::new();
        /// How long a TLS handshake may take, in milliseconds.
        handshake_timeout_ms: u64 = 10_000, in 1..=600_000;
        /// How many TLS handshakes may be under way at once; more wait in the listen backlog.
        handshakes_max: usize = 256, in 1..=65_536;
    }
}

section! {
    /// What one device, and all devices together, may use of the gateway.
    pub struct GatewayLimits {
        /// Connections at once.
        connections_max: usize = 100_000, in 1..=10_000_000;
        /// Largest MQTT packet, in bytes. MQTT 5 clients are told (Maximum Packet Size).
        packet_bytes_max: usize = MIB, in 256..=PACKET_BYTES_MAX;
        /// Longest topic name or filter, in bytes.
        topic_bytes_max: usize = 256, in 64..=65_535;
        /// Publishes of one connection that wait for Kafka: the acknowledgement window. MQTT 5 clients are
        /// told (Receive Maximum).
        inflight_max: u16 = 256, in 1..=65_535;
        /// Bytes of one connection that wait for Kafka. At least `packet_bytes_max`.
        inflight_bytes_max: usize = MIB, in 256..=1_099_511_627_776;
        /// Bytes of packets that have begun to arrive and are not whole yet, over all connections. At least
        /// `packet_bytes_max`.
        unfinished_bytes_max: usize = 256 * MIB, in 256..=1_099_511_627_776;
        /// How long after the TLS handshake a client may take to send CONNECT, in milliseconds.
        connect_timeout_ms: u64 = 10_000, in 1..=600_000;
        /// Longest keep-alive, in seconds. MQTT 5 clients that ask for more, or for none, are told this one.
        keep_alive_s_max: u16 = 1200, in 1..=65_535;
        /// How long a client may leave what the gateway sends unread before it is disconnected, in
        /// milliseconds.
        write_timeout_ms: u64 = 30_000, in 1..=3_600_000;
        /// How long open connections may take to finish at shutdown, in milliseconds.
        drain_timeout_ms: u64 = 20_000, in 1..=3_600_000;
    }
}

section! {
    /// The Kafka cluster that every role uses.
    pub struct Kafka {
        /// Where to find the cluster: `host:port`, several separated by commas.
        brokers: String = "127.0.0.1:9092".to_owned();
        /// Put before the name of every topic. For clusters that are shared, and for tests.
        topic_prefix: String = String::new();
        /// Replicas of each topic that Penstock creates; -1 leaves it to the broker's default.
        replication_factor: i16 = -1, in -1..=1_000;
        /// Any property of librdkafka by its own name, such as `"security.protocol" = "SASL_SSL"`. It wins
        /// over what Penstock sets, except that properties which carry a guarantee are refused. As an
        /// environment variable, dots are underscores: `PENSTOCK_KAFKA__PROPERTIES__SASL_PASSWORD`.
        properties: BTreeMap<String, String> = BTreeMap::new();
    }
}

choice! {
    /// How batches of records are compressed on the way to Kafka and in it.
    pub enum Compression {
        /// Quick, and half the size: the default.
        Lz4 = "lz4",
        /// Not at all.
        None = "none",
        /// Smaller than lz4 at more CPU.
        Zstd = "zstd",
        /// For clusters that have only this.
        Snappy = "snappy",
        /// For clusters that have only this.
        Gzip = "gzip",
    }
}

section! {
    /// How a publish becomes a record: which readings are valid, and how they are sent.
    pub struct Bridge {
        /// How long a record may wait for others that go to the same partition, in milliseconds.
        linger_ms: u64 = 5, in 0..=10_000;
        /// How long Kafka may take to confirm a record, in milliseconds; then the device is disconnected
        /// without an acknowledgement and sends again.
        delivery_timeout_ms: u64 = 30_000, in 100..=3_600_000;
        /// Bytes of records that wait for Kafka, in the whole process.
        queue_bytes_max: usize = 256 * MIB, in 65_536..=1_099_511_627_776;
        /// Records that wait for Kafka, in the whole process.
        queue_records_max: usize = 500_000, in 1..=10_000_000;
        /// Compression of the records: `none`, `lz4`, `zstd`, `snappy` or `gzip`.
        compression: Compression = Compression::Lz4;
        /// How far back the timestamp of a reading may lie at its receipt, in days.
        timestamp_past_days: u32 = 1827, in 1..=36_525;
        /// How far ahead the timestamp of a reading may lie at its receipt, in hours.
        timestamp_future_hours: u32 = 24, in 1..=8_766;
        /// Entries in `metrics` of one reading.
        metrics_max: usize = 64, in 1..=65_536;
        /// Longest name in `metrics`, in bytes.
        metric_name_bytes_max: usize = 64, in 1..=65_535;
        /// Readings in one batch.
        batch_readings_max: usize = 10_000, in 1..=10_000_000;
        /// Largest reading, in bytes.
        reading_bytes_max: usize = 64 * KIB, in 64..=READING_BYTES_MAX;
    }
}

section! {
    /// How readings are moved from Kafka to ClickHouse: in few, large inserts.
    pub struct Writer {
        /// What is promised: `exactly-once`, or `at-least-once`, which claims nothing and asks nothing: after a
        /// crash a row may be inserted twice, and merges make it one. All writers of a group must agree.
        guarantee: StorageGuarantee = StorageGuarantee::ExactlyOnce;
        /// Consumer group. Writers with the same group share the partitions.
        group: String = "penstock-storage-writer".to_owned();
        /// Rows at which a batch is inserted.
        batch_rows_max: usize = 10_000, in 1..=10_000_000;
        /// Bytes at which a batch is inserted.
        batch_bytes_max: usize = 16 * MIB, in 65_536..=1_099_511_627_776;
        /// Age of its oldest row at which a batch is inserted, in milliseconds.
        batch_age_ms_max: u64 = 100, in 1..=600_000;
        /// Inserts under way at once.
        inserts_inflight_max: usize = 2, in 1..=64;
        /// Bytes fetched from Kafka ahead of the batches.
        fetch_bytes_max: usize = 64 * MIB, in 65_536..=2_147_482_624;
        /// Shortest pause before a failed insert is tried again, in milliseconds.
        backoff_min_ms: u64 = 100, in 1..=3_600_000;
        /// Longest pause before a failed insert is tried again, in milliseconds. At least `backoff_min_ms`.
        backoff_max_ms: u64 = 10_000, in 1..=3_600_000;
        /// How long Kafka waits for a silent writer before its partitions go to another, in milliseconds.
        /// Brokers refuse less than their `group.min.session.timeout.ms`, 6000 unless changed.
        session_timeout_ms: u64 = 10_000, in 1_000..=300_000;
        /// How long the last batches may take at shutdown, in milliseconds.
        drain_timeout_ms: u64 = 20_000, in 1..=3_600_000;
        /// Whether the rollups by minute and hour are kept.
        rollups: bool = true;
        /// How often the rollups are brought up to date, in milliseconds. Each time costs ClickHouse about 1 us of
        /// CPU for a reading that came since, every 60 s; more than 3 us every 10 s.
        rollup_every_ms: u64 = 60_000, in 100..=86_400_000;
        /// Active parts in one monthly partition of `readings` above which batches grow larger and older, so that
        /// ClickHouse is not driven to refuse inserts (`parts_to_delay_insert`, 1000 unless changed).
        parts_soft_max: u64 = 300, in 1..=1_000_000;
    }
}

choice! {
    /// How often a Kafka record may be inserted.
    pub enum StorageGuarantee {
        /// Once, whatever fails: the default.
        ExactlyOnce = "exactly-once",
        /// Again after a failure whose outcome is not known.
        AtLeastOnce = "at-least-once",
    }
}

section! {
    /// Where rows are stored.
    pub struct ClickHouse {
        /// Address of the HTTP interface: `http://` or `https://`, host, port.
        url: String = "http://127.0.0.1:8123".to_owned();
        /// Database; it is created if missing. Letters, digits and underscores.
        database: String = "penstock".to_owned();
        /// User name.
        user: String = "default".to_owned();
        /// Password; empty for none. Better given as `PENSTOCK_CLICKHOUSE__PASSWORD` than in the file.
        password: Secret = Secret::default();
        /// Name of the cluster for replicated tables (`ON CLUSTER`); empty for a single node.
        cluster: String = String::new();
        /// How long an insert may take, in milliseconds.
        insert_timeout_ms: u64 = 30_000, in 1..=3_600_000;
        /// How long any other statement may take, in milliseconds.
        query_timeout_ms: u64 = 30_000, in 1..=3_600_000;
        /// Whether an insert waits until its rows are on disk. Otherwise they are in the page cache, and survive the
        /// end of ClickHouse, but not that of the machine. Sets the table's `fsync_after_insert` and
        /// `fsync_part_directory`; never unsets them.
        fsync_after_insert: bool = false;
        /// Replicas that must have the rows before an insert is done (`insert_quorum`). Only replicated tables heed
        /// it.
        insert_quorum: u16 = 1, in 1..=100;
    }
}

section! {
    /// Rules over readings, and the alerts they raise.
    pub struct Alerts {
        /// File with the rules, see `penstock rules --help`; empty for those that are built in (five readings over
        /// 80 degrees Celsius in 5 minutes, low batteries). It is read again when it changes, and on SIGHUP.
        rules: PathBuf = PathBuf::new();
        /// Consumer group. Alerters with the same group share the partitions; they must have the same rules.
        group: String = "penstock-alerts".to_owned();
        /// Where to begin in a partition that no alerter of the group has read: `earliest` or `latest`.
        start: AlertsStart = AlertsStart::Earliest;
        /// How often what the rules know of each device is saved, in milliseconds. Readings that came since are read
        /// again after a crash.
        checkpoint_every_ms: u64 = 60_000, in 100..=3_600_000;
        /// How long a reading may be on its way into Kafka, in milliseconds: a device counts as silent that much
        /// later. At `bridge.delivery_timeout_ms` and more no outage of Kafka makes a device look silent.
        no_data_grace_ms: u64 = 35_000, in 1..=3_600_000;
        /// Bytes fetched from Kafka ahead of the rules.
        fetch_bytes_max: usize = 64 * MIB, in 65_536..=2_147_482_624;
        /// Shortest pause before a failed transaction is tried again, in milliseconds.
        backoff_min_ms: u64 = 50, in 1..=3_600_000;
        /// Longest pause before a failed transaction is tried again, in milliseconds. At least `backoff_min_ms`.
        backoff_max_ms: u64 = 5_000, in 1..=3_600_000;
        /// How long Kafka waits for a silent alerter before its partitions go to another, in milliseconds.
        /// Brokers refuse less than their `group.min.session.timeout.ms`, 6000 unless changed.
        session_timeout_ms: u64 = 10_000, in 1_000..=300_000;
        /// How long the last alerts and the last checkpoint may take at shutdown, in milliseconds.
        drain_timeout_ms: u64 = 20_000, in 1..=3_600_000;
    }
}

choice! {
    /// Where alerting begins.
    pub enum AlertsStart {
        /// At the oldest reading that Kafka has: the default.
        Earliest = "earliest",
        /// At the readings to come.
        Latest = "latest",
    }
}

section! {
    /// How alerts reach people. Each receiver reads the alert topics in a consumer group of its own, so that one that
    /// is away does not hold up the other. Without a URL nothing is notified.
    pub struct Notify {
        /// Address of an Alertmanager, such as `http://127.0.0.1:9093`: alerts go to `/api/v2/alerts` below it. Empty
        /// for none.
        alertmanager_url: String = String::new();
        /// Value of the header `Authorization` for the Alertmanager, such as `Bearer ...`; empty for none. Better given
        /// as `PENSTOCK_NOTIFY__ALERTMANAGER_AUTHORIZATION` than in the file.
        alertmanager_authorization: Secret = Secret::default();
        /// Address that gets alerts as plain JSON (docs/OPERATIONS.md has the schema). Empty for none.
        webhook_url: String = String::new();
        /// Value of the header `Authorization` for the webhook; empty for none.
        webhook_authorization: Secret = Secret::default();
        /// Begin of the names of the consumer groups, `-alertmanager` and `-webhook` follow. Processes with the same
        /// name share the partitions.
        group: String = "penstock-notify".to_owned();
        /// What the webhook gets in one request: alerts of one `device` or of one `rule` that come together, or each
        /// alert alone (`none`). The Alertmanager groups by itself.
        group_by: GroupBy = GroupBy::Device;
        /// How long the first alert of a group waits for others, in milliseconds. With `group_by = "none"` nothing
        /// waits.
        group_wait_ms: u64 = 5_000, in 1..=3_600_000;
        /// Alerts at which a group is sent without waiting; also the most that are in one request.
        group_alerts_max: usize = 200, in 1..=10_000;
        /// Requests to the webhook under way at once, each of another group. The Alertmanager gets one at a time.
        requests_inflight_max: usize = 8, in 1..=256;
        /// How long a request may take, in milliseconds.
        timeout_ms: u64 = 10_000, in 1..=600_000;
        /// Shortest pause before a failed request is tried again, in milliseconds.
        backoff_min_ms: u64 = 500, in 1..=3_600_000;
        /// Longest pause before a failed request is tried again, in milliseconds. At least `backoff_min_ms`.
        backoff_max_ms: u64 = 30_000, in 1..=3_600_000;
        /// How long an alert is tried to be delivered, in milliseconds; then it goes to
        /// `alert.events.delivery-failures`. Also how far back the first start of a group looks for alerts that have
        /// ended already.
        give_up_after_ms: u64 = 3_600_000, in 1..=2_592_000_000;
        /// How often the Alertmanager is told that an alert still fires, in milliseconds: it forgets alerts when it is
        /// restarted.
        alertmanager_resend_ms: u64 = 60_000, in 1_000..=86_400_000;
        /// An alert that the Alertmanager hears nothing of for so long counts as resolved there, in milliseconds. At
        /// least twice `alertmanager_resend_ms`.
        alertmanager_expire_ms: u64 = 3_600_000, in 2_000..=2_592_000_000;
        /// A link for people: `{id}`, `{rule}` and `{device_id}` are filled in. The Alertmanager shows it as the source
        /// of the alert. Empty for none.
        link: String = String::new();
        /// Alerts that wait to be delivered to one receiver; then no more are read.
        queue_records_max: usize = 10_000, in 1..=10_000_000;
        /// Bytes of alerts that wait to be delivered to one receiver; then no more are read.
        queue_bytes_max: usize = 16 * MIB, in 65_536..=1_099_511_627_776;
        /// Bytes of firing alerts that are remembered for one receiver. What is more is delivered once, but is not sent
        /// again to the Alertmanager, or after a silence.
        active_bytes_max: usize = 64 * MIB, in 65_536..=1_099_511_627_776;
        /// How long Kafka waits for a silent process before its partitions go to another, in milliseconds.
        session_timeout_ms: u64 = 10_000, in 1_000..=300_000;
        /// How long alerts that wait may take to be delivered at shutdown, in milliseconds. What is left is read again.
        drain_timeout_ms: u64 = 10_000, in 1..=3_600_000;
    }
}

choice! {
    /// Which alerts are notified together.
    pub enum GroupBy {
        /// Those of one device: the default.
        Device = "device",
        /// Those of one rule.
        Rule = "rule",
        /// Each alone.
        None = "none",
    }
}

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// Human on a terminal, JSON otherwise: the default.
        Auto = "auto",
        /// For people to read; coloured on a terminal.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

section! {
    /// Logs to standard error; metrics and health by HTTP.
    pub struct Telemetry {
        /// IP address and port of `/metrics`, `/healthz` and `/readyz`. There is no authentication: keep it
        /// private.
        admin_listen: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
        /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, also by module:
        /// `info,penstock_gateway=debug`.
        log_level: String = "info".to_owned();
        /// How it is logged: `auto` (human on a terminal, JSON otherwise), `human` or `json`.
        log_format: LogFormat = LogFormat::Auto;
    }
}
