//! What the faults are done to: Kafka, a group of alerters with a proxy before each, and the rules file they share.
//!
//! Load and oracle go to Kafka directly.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;
use penstock_alerter::RuleSet;
use penstock_devstack::{Kafka, KafkaListener, KafkaOptions, PortLease};
use penstock_kafka::ClientSettings;
use tokio::runtime::Runtime;

use super::kind::{ALERTERS_MAX, ALERTERS_MIN, KAFKA_STOP_MS_MAX, Kind};
use super::load::{DELIVERY_TIMEOUT_MS, key};
use crate::faults::node::Node;
use crate::faults::proxy::{Proxy, ProxyPort};
use crate::faults::suite;

const RULES: &str = include_str!("rules.toml");
/// Put before every topic.
const PREFIX: &str = "alerts.";
/// For a Kafka that is slow when it goes on.
const GRACE_SLACK_MS: u64 = 9_000;
/// A reading may be with the producer for as long as it tries, and then in a socket of a Kafka that is stopped.
const GRACE_MS: u64 = DELIVERY_TIMEOUT_MS + KAFKA_STOP_MS_MAX + GRACE_SLACK_MS;

/// What every alerter is configured with beside addresses. Deadlines are shorter than the longer faults, so that what lies
/// behind them happens, too.
const KEYS: &[(&str, &str)] = &[
    ("alerts.group", "\"alerts\""),
    ("alerts.rules", "\"rules.toml\""),
    ("alerts.session_timeout_ms", "6000"),
    ("alerts.checkpoint_every_ms", "2000"),
    ("alerts.backoff_max_ms", "2000"),
    ("alerts.drain_timeout_ms", "10000"),
    ("telemetry.log_level", "\"info,penstock_alerter=debug\""),
];

/// The rules file that all alerters read.
#[derive(Debug)]
pub struct RulesFile {
    path: PathBuf,
    rng: Mutex<Rng>,
}

impl RulesFile {
    fn write(folder: &Path, devices: u32) -> Self {
        let every_other =
            (0..devices).step_by(2).map(|number| uuid::Uuid::from_bytes(key(number)).to_string());
        fs::write(folder.join("rack.txt"), every_other.collect::<Vec<_>>().join("\n")).unwrap();
        let path = folder.join("rules.toml");
        fs::write(&path, RULES).unwrap();
        Self { path, rng: Mutex::new(Rng::with_seed(0)) }
    }

    /// Writes it anew, with the rules in another order, which means the same. A reader sees the old file or the new one.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn touch(&self) {
        let mut rng = self.rng.lock();
        let mut rules: Vec<&str> = RULES.split("\n[rules.").skip(1).collect();
        rng.shuffle(&mut rules);
        let mut text = format!("# {}\n", rng.u64(..));
        for rule in rules {
            let _ = writeln!(text, "[rules.{rule}");
        }
        let beside = self.path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &self.path).unwrap();
    }

    /// The rules in it.
    ///
    /// # Panics
    /// Where they are wrong.
    pub fn rules(&self) -> Arc<RuleSet> {
        Arc::new(RuleSet::load(&self.path).unwrap_or_else(|error| panic!("{error}")))
    }
}

/// The whole of it. Everything ends when it is dropped, or when this process ends.
#[derive(Debug)]
pub struct Site {
    /// Places for alerters; not all are taken.
    pub alerters: Vec<Node>,
    /// The network before each of them.
    pub networks: Vec<Proxy>,
    /// The server.
    pub kafka: Kafka,
    /// What they go by.
    pub rules: RulesFile,
    /// What went wrong without a fault that explains it.
    pub unexpected: Mutex<Vec<String>>,
    _ports: Vec<PortLease>,
}

fn listener(alerter: usize) -> String {
    format!("ALERTER{alerter}")
}

fn start_kafka(runtime: &Runtime, folder: &Path) -> (Kafka, Vec<Proxy>) {
    let ports: Vec<ProxyPort> = runtime.block_on(async {
        [ProxyPort::bind().await, ProxyPort::bind().await, ProxyPort::bind().await].into()
    });
    let named = ports.iter().enumerate();
    let listeners = named
        .map(|(alerter, port)| KafkaListener { name: listener(alerter), advertised_port: port.port() })
        .collect();
    let options = KafkaOptions { dir: Some(folder.join("kafka")), listeners, ..KafkaOptions::default() };
    let kafka = Kafka::start(&options).unwrap();
    let _guard = runtime.enter();
    let networks = ports.into_iter().enumerate().map(|(alerter, port)| {
        let address =
            kafka.listener(&listener(alerter)).expect("faults need a Kafka of their own, not the user's");
        port.forward(address.parse().unwrap())
    });
    let networks = networks.collect();
    (kafka, networks)
}

impl Site {
    /// Starts everything, files in `folder`, and waits until it is ready.
    ///
    /// # Panics
    /// Where that does not work.
    pub fn start(runtime: &Runtime, folder: &Path, devices: u32) -> Self {
        let (kafka, networks) = start_kafka(runtime, folder);
        let rules = RulesFile::write(folder, devices);
        let ports: Vec<_> = (0..ALERTERS_MAX).map(|_| PortLease::reserve().unwrap()).collect();
        let places = ports.iter().zip(&networks).enumerate();
        let alerters = places.map(|(number, (port, network))| {
            let name = format!("alerter-{number}");
            let admin = SocketAddr::from(([127, 0, 0, 1], port.port()));
            Node::new(&name, "alerts", config(folder, &name, admin, network), admin)
        });
        let alerters = alerters.collect();
        let unexpected = Mutex::new(Vec::new());
        let site = Self { alerters, networks, kafka, rules, unexpected, _ports: ports };
        site.alerters.iter().take(ALERTERS_MIN).for_each(Node::start);
        suite::Site::wait_ready(&site);
        site
    }

    /// How load and oracle reach Kafka.
    pub fn client(&self) -> ClientSettings {
        ClientSettings {
            brokers: self.kafka.brokers(),
            client_id: "system-test".to_owned(),
            properties: Default::default(),
        }
    }

    /// Put before every topic.
    pub const fn prefix(&self) -> &'static str {
        PREFIX
    }
}

impl suite::Site for Site {
    type Kind = Kind;

    fn nodes(&self) -> Vec<&Node> {
        self.alerters.iter().collect()
    }

    fn unexpected(&self) -> &Mutex<Vec<String>> {
        &self.unexpected
    }

    fn heal_networks(&self) {
        self.networks.iter().for_each(Proxy::heal);
    }

    fn server_logs(&self, lines: usize) -> Vec<(&'static str, String)> {
        vec![("kafka", self.kafka.log_tail(lines))]
    }
}

fn config(folder: &Path, name: &str, admin: SocketAddr, network: &Proxy) -> PathBuf {
    let mut text = String::new();
    let own = [
        ("kafka.brokers", format!("{:?}", network.address())),
        ("kafka.topic_prefix", format!("{PREFIX:?}")),
        ("telemetry.admin_listen", format!("{:?}", admin.to_string())),
        ("alerts.no_data_grace_ms", GRACE_MS.to_string()),
    ];
    let fixed = KEYS.iter().map(|(key, value)| (*key, (*value).to_owned()));
    for (key, value) in fixed.chain(own) {
        let _ = writeln!(text, "{key} = {value}");
    }
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, text).unwrap();
    file
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rules_that_are_rewritten_mean_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = RulesFile::write(folder.path(), 10);
        let meaning = || {
            let rules = file.rules();
            let said = rules.rules().iter().map(|rule| {
                format!("{} {} {} {}", rule.name(), rule.condition(), rule.modifiers(), rule.devices())
            });
            said.collect::<BTreeSet<String>>()
        };
        let before = (fs::read_to_string(&file.path).unwrap(), meaning());
        file.touch();
        assert_ne!(fs::read_to_string(&file.path).unwrap(), before.0);
        assert_eq!(meaning(), before.1);
        assert_eq!(meaning().len(), 9);
    }
}
