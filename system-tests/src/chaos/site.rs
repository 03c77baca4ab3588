//! What the faults are done to: servers, a gateway, a group of writers, and a proxy in each network between them.
//!
//! Devices, the oracle and whoever writes undecodable records go to Kafka and ClickHouse directly.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_devstack::{ClickHouseOptions, KafkaOptions, PortLease, Stack, StackOptions};
use tokio::runtime::Runtime;

use super::kind::{Kind, Link, WRITERS_AT_FIRST, WRITERS_MAX};
use super::networks::{NetworkPorts, Networks};
use crate::chain::Chain;
use crate::faults::node::Node;
use crate::faults::suite;
use crate::wait::until;

const MERGED: Duration = Duration::from_secs(120);

/// What every process is configured with beside addresses. Deadlines are shorter than the longer faults, so that what
/// lies behind them happens, too: deliveries that time out, sessions that end, inserts whose outcome is unknown.
const KEYS: &[(&str, &str)] = &[
    ("gateway.limits.drain_timeout_ms", "5000"),
    ("bridge.delivery_timeout_ms", "10000"),
    ("writer.session_timeout_ms", "6000"),
    ("writer.drain_timeout_ms", "10000"),
    ("writer.backoff_max_ms", "2000"),
    // Parts are not merged while a round lasts: with few of them ClickHouse does not slow inserts down.
    ("writer.batch_age_ms_max", "250"),
    ("writer.rollup_every_ms", "2000"),
    // What a difference in the rollups is traced by.
    ("telemetry.log_level", "\"info,penstock_storage_writer::rollups=debug\""),
    ("clickhouse.insert_timeout_ms", "8000"),
    ("clickhouse.query_timeout_ms", "15000"),
];

/// The whole of it. Everything ends when it is dropped, or when this process ends.
#[derive(Debug)]
pub struct Site {
    /// The gateway.
    pub gateway: Node,
    /// Places for writers; not all are taken.
    pub writers: Vec<Node>,
    /// What lies between them.
    pub networks: Networks,
    /// Servers, certificates, names.
    pub chain: Chain,
    /// What went wrong without a fault that explains it.
    pub unexpected: Mutex<Vec<String>>,
    merges_held: AtomicBool,
    _ports: Vec<PortLease>,
}

fn node(chain: &Chain, name: &str, role: &'static str, admin: u16, own: &[(String, String)]) -> Node {
    let admin = SocketAddr::from(([127, 0, 0, 1], admin));
    Node::new(name, role, chain.config_with(name, admin, own), admin)
}

fn keys(keys: &[(&str, String)]) -> Vec<(String, String)> {
    let fixed = KEYS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    fixed.chain(keys.iter().map(|(key, value)| ((*key).to_owned(), format!("{value:?}")))).collect()
}

impl Site {
    /// Starts everything, files in `folder`, and waits until it is ready.
    ///
    /// # Panics
    /// Where that does not work.
    pub fn start(runtime: &Runtime, folder: &Path) -> Self {
        let ports = runtime.block_on(NetworkPorts::bind());
        let kafka = KafkaOptions {
            dir: Some(folder.join("kafka")),
            listeners: ports.listeners(),
            ..KafkaOptions::default()
        };
        let clickhouse =
            ClickHouseOptions { dir: Some(folder.join("clickhouse")), ..ClickHouseOptions::default() };
        let stack = Stack::start(&StackOptions { kafka, clickhouse }).unwrap();
        let networks = {
            let _guard = runtime.enter();
            ports.forward(&stack)
        };
        let ports: Vec<_> = (0..WRITERS_MAX + 2).map(|_| PortLease::reserve().unwrap()).collect();
        let mut chain = Chain::in_folder(stack, folder.join("penstock"));
        chain.mqtt = SocketAddr::from(([127, 0, 0, 1], ports[0].port()));
        let own = keys(&[("kafka.brokers", networks.of(Link::GatewayKafka, 0).address())]);
        let gateway = node(&chain, "gateway", "gateway", ports[1].port(), &own);
        let writers = (0..WRITERS_MAX).map(|index| {
            let clickhouse = networks.of(Link::WriterClickHouse, index).address();
            let own = keys(&[
                ("kafka.brokers", networks.of(Link::WriterKafka, index).address()),
                ("clickhouse.url", format!("http://{clickhouse}")),
            ]);
            node(&chain, &format!("writer-{index}"), "writer", ports[index + 2].port(), &own)
        });
        let site = Self {
            writers: writers.collect(),
            gateway,
            networks,
            chain,
            unexpected: Mutex::new(Vec::new()),
            merges_held: AtomicBool::new(false),
            _ports: ports,
        };
        site.gateway.start();
        site.writers.iter().take(WRITERS_AT_FIRST).for_each(Node::start);
        suite::Site::wait_ready(&site);
        site
    }

    /// Whether no writer holds rows that are not stored.
    pub fn is_quiet(&self) -> bool {
        self.writers.iter().all(|writer| {
            let held = writer.with(|process| process.metric("penstock_writer_buffered_bytes", ""));
            held.unwrap_or(0.0) == 0.0
        })
    }

    /// While merges are held, no row vanishes because another one has the same key: each insert can be seen.
    ///
    /// # Panics
    /// Where ClickHouse does not do it, or does not catch up with merging afterwards.
    pub fn hold_merges(&self, hold: bool) {
        self.merges_held.store(hold, Ordering::Relaxed);
        self.say_merges(if hold { "STOP" } else { "START" }).unwrap();
        if hold {
            return;
        }
        let parts = format!(
            "SELECT max(parts) FROM (SELECT count() AS parts FROM system.parts WHERE active AND database = '{}' \
             AND table = 'readings' GROUP BY partition_id)",
            self.chain.database
        );
        until("ClickHouse to have merged parts", MERGED, || {
            let count = self.chain.stack.clickhouse.query(&parts).unwrap();
            count.trim().parse::<u64>().unwrap() < 200
        });
    }

    /// Tells a ClickHouse that was started anew that merges are held; one that is away again will be told later.
    pub fn remind_of_merges(&self) {
        if self.merges_held.load(Ordering::Relaxed) {
            let _ = self.say_merges("STOP");
        }
    }

    fn say_merges(&self, word: &str) -> Result<String, String> {
        let statement = format!("SYSTEM {word} MERGES {}.readings", self.chain.database);
        self.chain.stack.clickhouse.query(&statement)
    }
}

impl suite::Site for Site {
    type Kind = Kind;

    fn nodes(&self) -> Vec<&Node> {
        std::iter::once(&self.gateway).chain(&self.writers).collect()
    }

    fn unexpected(&self) -> &Mutex<Vec<String>> {
        &self.unexpected
    }

    fn heal_networks(&self) {
        self.networks.heal();
    }

    fn server_logs(&self, lines: usize) -> Vec<(&'static str, String)> {
        let stack = &self.chain.stack;
        vec![("kafka", stack.kafka.log_tail(lines)), ("clickhouse", stack.clickhouse.log_tail(lines))]
    }
}
