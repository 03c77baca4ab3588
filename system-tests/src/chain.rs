//! The whole chain for one test: servers, topics and database of its own, certificates, configuration.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use penstock_certs::Authority;
use penstock_devstack::{Stack, StackOptions};
use penstock_kafka::{ClientSettings, ScanFrom, Scanner};
use penstock_loadgen::verify::{Expectation, Verification, verify};
use penstock_loadgen::{ClickHouseTarget, FleetOptions, Identities, KafkaTarget, Ledger};
use tempfile::TempDir;
use uuid::Uuid;

use crate::process::{Penstock, program, run_to_end};

/// The servers that all tests of a test binary share; for tests that harm no server.
pub fn shared_stack() -> Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| Stack::start(&StackOptions::default()).unwrap()).clone()
}

/// Servers, and what one test has of its own on them.
#[derive(Debug)]
pub struct Chain {
    /// The servers.
    pub stack: Stack,
    /// Who signs the certificates that the gateway accepts.
    pub authority: Arc<Authority>,
    /// Put before every topic.
    pub prefix: String,
    /// The database.
    pub database: String,
    /// Where devices connect.
    pub mqtt: SocketAddr,
    dir: Folder,
    extra: Vec<(String, String)>,
}

/// Where the test's files are.
#[derive(Debug)]
enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

/// A port that nobody listens on.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

impl Chain {
    /// A chain on these servers. No Penstock runs yet.
    pub fn new(stack: Stack) -> Self {
        Self::with_folder(stack, Folder::Temporary(tempfile::tempdir().unwrap()))
    }

    /// A chain on these servers, with its files in this folder, where they stay.
    pub fn in_folder(stack: Stack, folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self::with_folder(stack, Folder::Kept(folder))
    }

    fn with_folder(stack: Stack, dir: Folder) -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let authority = Authority::create("system test", 2).unwrap();
        let chain = Self {
            stack,
            authority: Arc::new(authority),
            prefix: format!("t{}.", &id[..12]),
            database: format!("t{}", &id[..12]),
            mqtt: free_address(),
            dir,
            extra: Vec::new(),
        };
        chain.write_certificates();
        chain
    }

    /// A chain on the servers that the test binary shares.
    pub fn shared() -> Self {
        Self::new(shared_stack())
    }

    /// Sets a configuration key for every process that is started from now on; the value is TOML.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.extra.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The folder of the test's files.
    pub fn path(&self, name: &str) -> PathBuf {
        match &self.dir {
            Folder::Temporary(dir) => dir.path().join(name),
            Folder::Kept(dir) => dir.join(name),
        }
    }

    /// Writes the gateway's certificate anew, signed by the same authority.
    pub fn write_certificates(&self) {
        let server = self.authority.server(&["localhost", "127.0.0.1"], 2).unwrap();
        fs::write(self.path("ca.pem"), self.authority.cert_pem()).unwrap();
        fs::write(self.path("server.pem"), &server.cert_pem).unwrap();
        fs::write(self.path("server.key"), &server.key_pem).unwrap();
    }

    /// A configuration file for a process with this name, and the address of its admin port.
    pub fn config(&self, name: &str) -> (PathBuf, SocketAddr) {
        let admin = free_address();
        (self.config_with(name, admin, &[]), admin)
    }

    /// A configuration file for a process with this name and admin port, and keys of its own, whose values are TOML.
    pub fn config_with(&self, name: &str, admin: SocketAddr, own: &[(String, String)]) -> PathBuf {
        let mut text = String::new();
        let quoted = |value: &str| format!("{value:?}");
        let mut keys = vec![
            ("gateway.listen".to_owned(), quoted(&self.mqtt.to_string())),
            ("gateway.tls.cert_file".to_owned(), quoted("server.pem")),
            ("gateway.tls.key_file".to_owned(), quoted("server.key")),
            ("gateway.tls.client_ca_file".to_owned(), quoted("ca.pem")),
            ("kafka.brokers".to_owned(), quoted(&self.stack.kafka.brokers())),
            ("kafka.topic_prefix".to_owned(), quoted(&self.prefix)),
            ("writer.group".to_owned(), quoted(&format!("{}writer", self.prefix))),
            ("clickhouse.url".to_owned(), quoted(&self.stack.clickhouse.http_url())),
            ("clickhouse.database".to_owned(), quoted(&self.database)),
            ("telemetry.admin_listen".to_owned(), quoted(&admin.to_string())),
        ];
        for (key, value) in self.extra.iter().chain(own) {
            keys.retain(|(known, _)| known != key);
            keys.push((key.clone(), value.clone()));
        }
        for (key, value) in keys {
            writeln!(text, "{key} = {value}").unwrap();
        }
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, text).unwrap();
        file
    }

    /// A running gateway.
    pub fn gateway(&self) -> Penstock {
        let (config, admin) = self.config("gateway");
        Penstock::start_ready(&["gateway"], &config, admin)
    }

    /// A running writer; several may run at once under different names.
    pub fn writer(&self, name: &str) -> Penstock {
        let (config, admin) = self.config(name);
        Penstock::start_ready(&["writer"], &config, admin)
    }

    /// A fleet with certificates of this chain's authority.
    pub fn fleet(&self) -> FleetOptions {
        let identities = Identities::Mint(Arc::clone(&self.authority));
        FleetOptions::new("localhost", self.mqtt.port(), self.authority.cert_pem(), identities)
    }

    /// `penstock` with these arguments and a configuration file for a process with this name: what it says at its end.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Output {
        let (config, _) = self.config(name);
        let mut command = Command::new(program());
        command.args(arguments).arg("--config").arg(config);
        run_to_end(command)
    }

    /// How the test itself reaches Kafka.
    pub fn kafka(&self) -> ClientSettings {
        ClientSettings {
            brokers: self.stack.kafka.brokers(),
            client_id: "system-test".to_owned(),
            properties: Default::default(),
        }
    }

    /// Where the rows are.
    pub fn clickhouse(&self) -> ClickHouseTarget {
        ClickHouseTarget {
            url: self.stack.clickhouse.http_url(),
            database: self.database.clone(),
            user: "default".to_owned(),
            password: "".into(),
        }
    }

    /// Compares what was acknowledged with Kafka and, if `rows`, with ClickHouse.
    pub async fn verify(&self, ledger: &Arc<Ledger>, rows: bool) -> Verification {
        let expectation = Expectation {
            kafka: Some(KafkaTarget { settings: self.kafka(), topic_prefix: self.prefix.clone() }),
            clickhouse: rows.then(|| self.clickhouse()),
            deadline: Duration::from_secs(90),
            ..Expectation::default()
        };
        verify(ledger, &expectation, |_| ()).await.unwrap()
    }

    /// Every record of one of the contract's topics: partition, key, payload, and headers as text.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        let topic = format!("{}{topic}", self.prefix);
        let mut scanner = Scanner::open(&self.kafka(), &topic, &ScanFrom::Beginning, false).unwrap();
        let mut records = Vec::new();
        while let Some(batch) = scanner.next_batch(1000, Duration::from_secs(10)).unwrap() {
            records.extend(batch.iter().map(|record| {
                Record {
                    partition: record.partition,
                    offset: record.offset,
                    key: record.key.map(<[u8]>::to_vec),
                    payload: record.payload.to_vec(),
                    timestamp_ms: record.timestamp_ms,
                    headers: record
                        .headers()
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
                        .collect(),
                }
            }));
        }
        records
    }
}

/// A Kafka record, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub payload: Vec<u8>,
    /// Its timestamp in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Its headers, values as text.
    pub headers: Vec<(String, String)>,
}

impl Record {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}
