//! `penstock loadgen …`: the command line of this crate.

mod blast;
mod progress;
mod reading;
mod run;
mod verify;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use penstock_certs::{Authority, CredentialFiles};
use penstock_kafka::ClientSettings;
use penstock_service::Secret;
use tokio_util::sync::CancellationToken;

use crate::mqtt::{Qos, Version};
use crate::store::{ClickHouseTarget, KafkaTarget};
use crate::tls::Identities;

/// A virtual fleet: publish, verify that what was acknowledged is stored, measure.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish as a fleet of devices, keep a ledger of acknowledgements, and report
    #[command(after_help = run::EXAMPLES)]
    Run(Box<run::Run>),
    /// Compare a ledger of an earlier run with Kafka and ClickHouse
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Verify),
    /// Write one encoded reading to standard output, for other MQTT clients
    #[command(after_help = reading::EXAMPLES)]
    Reading(reading::Reading),
    /// Publish prepared messages on thousands of connections, to benchmark a gateway or broker
    #[command(after_help = blast::EXAMPLES)]
    Blast(blast::Blast),
}

impl Command {
    /// Runs the command; results go to standard output, progress to standard error. `cancel` ends a run early.
    ///
    /// Returns exit code 1 if a guarantee is falsified or the run is not complete.
    ///
    /// # Errors
    /// What went wrong and what to do next.
    pub async fn run(&self, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(args) => args.run(cancel).await,
            Self::Verify(args) => args.run(cancel).await,
            Self::Reading(args) => args.run(),
            Self::Blast(args) => args.run(cancel).await,
        }
    }
}

fn exit_code(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The protocol version, as it is named on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum MqttVersion {
    #[value(name = "5")]
    V5,
    #[value(name = "3.1.1")]
    V311,
}

impl From<MqttVersion> for Version {
    fn from(version: MqttVersion) -> Self {
        match version {
            MqttVersion::V5 => Self::V5,
            MqttVersion::V311 => Self::V311,
        }
    }
}

/// Quality of service, as it is named on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum QosLevel {
    #[value(name = "0")]
    Zero,
    #[value(name = "1")]
    One,
    #[value(name = "2")]
    Two,
}

impl From<QosLevel> for Qos {
    fn from(qos: QosLevel) -> Self {
        match qos {
            QosLevel::Zero => Self::AtMostOnce,
            QosLevel::One => Self::AtLeastOnce,
            QosLevel::Two => Self::ExactlyOnce,
        }
    }
}

/// Where the gateway is, and as whom to connect.
#[derive(Args, Debug)]
struct Gateway {
    /// Address of the gateway
    #[arg(long, default_value = "localhost:8883", value_name = "HOST:PORT")]
    gateway: String,
    /// Certificate of the authority that signed the gateway's certificate
    #[arg(long, default_value = "certs/ca.pem", value_name = "FILE")]
    ca: PathBuf,
    /// Folder with the devices' certificates and keys: <UUID>.pem and .key, or in devices/ below it
    #[arg(long, value_name = "DIR", conflicts_with = "ca_key")]
    certs: Option<PathBuf>,
    /// The authority's key: mints the devices' certificates in memory
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
}

impl Gateway {
    fn address(&self) -> anyhow::Result<(String, u16)> {
        let wrong =
            || format!("--gateway {:?}: expected HOST:PORT, like gateway.example.org:8883", self.gateway);
        let (host, port) = self.gateway.rsplit_once(':').with_context(wrong)?;
        let port = port.parse().with_context(wrong)?;
        if host.contains(':') {
            bail!("--gateway {:?}: the MQTT client takes no IPv6 address; give a name", self.gateway);
        }
        Ok((host.to_owned(), port))
    }

    fn ca_pem(&self) -> anyhow::Result<String> {
        let hint = || {
            format!(
                "cannot read {}: name the authority with --ca, or make one: `penstock certs ca`",
                self.ca.display()
            )
        };
        fs::read_to_string(&self.ca).with_context(hint)
    }

    fn identities(&self) -> anyhow::Result<Option<Identities>> {
        Ok(match (&self.certs, &self.ca_key) {
            (Some(dir), _) => Some(Identities::Directory(dir.clone())),
            (None, Some(key)) => {
                let files = CredentialFiles { cert: self.ca.clone(), key: key.clone() };
                Some(Identities::Mint(Arc::new(Authority::load_files(&files)?)))
            }
            (None, None) => None,
        })
    }
}

/// Where what was published is stored.
#[derive(Args, Debug)]
struct Stores {
    /// Kafka brokers, HOST:PORT separated by commas: compare with the readings and dead-letter topics
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// Put before every topic name
    #[arg(long, default_value = "", value_name = "PREFIX")]
    topic_prefix: String,
    /// A librdkafka property, for TLS or SASL; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    kafka_property: Vec<(String, String)>,
    /// ClickHouse's HTTP address: compare with the table of readings, and measure when readings become queryable
    #[arg(long, value_name = "URL")]
    clickhouse: Option<String>,
    /// Database of the table of readings
    #[arg(long, default_value = "penstock")]
    database: String,
    /// ClickHouse user
    #[arg(long, default_value = "default", value_name = "USER")]
    clickhouse_user: String,
    /// ClickHouse password
    #[arg(
        long,
        default_value = "",
        value_name = "PASSWORD",
        env = "CLICKHOUSE_PASSWORD",
        hide_env_values = true
    )]
    clickhouse_password: String,
    /// How long to wait for rows
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    deadline: Duration,
    /// Stop waiting once the number of rows has stood still for this long
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration)]
    stall: Duration,
    /// Table or view in which a reading that was sent more than once is one row; empty: `readings` itself
    #[arg(long, default_value = "readings_unique", value_name = "TABLE")]
    unique_table: String,
}

impl Stores {
    fn kafka(&self) -> Option<KafkaTarget> {
        let brokers = self.kafka.clone()?;
        let settings = ClientSettings {
            brokers,
            client_id: "penstock-loadgen".to_owned(),
            properties: self.kafka_property.iter().cloned().collect(),
        };
        Some(KafkaTarget { settings, topic_prefix: self.topic_prefix.clone() })
    }

    fn clickhouse(&self) -> Option<ClickHouseTarget> {
        Some(ClickHouseTarget {
            url: self.clickhouse.clone()?,
            database: self.database.clone(),
            user: self.clickhouse_user.clone(),
            password: Secret::from(self.clickhouse_password.as_str()),
        })
    }

    fn expectation(&self) -> crate::verify::Expectation {
        crate::verify::Expectation {
            kafka: self.kafka(),
            clickhouse: self.clickhouse(),
            deadline: self.deadline,
            stall: self.stall,
            unique_table: Some(self.unique_table.clone()).filter(|table| !table.is_empty()),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration =
        text.parse().map_err(|_| "expected a duration like 30s, 500ms or 5m".to_owned())?;
    duration.try_into().map_err(|_| "a duration is not negative".to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Lets this process open as many sockets as it is allowed to: a connection is a file, and the usual limit is 1,024.
fn raise_open_files_max() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "the limit of open files stays");
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Loadgen {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Loadgen::try_parse_from(std::iter::once("loadgen").chain(line.split(' ')))
            .map(|parsed| parsed.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Loadgen::command().debug_assert();
    }

    #[test]
    fn every_example_in_the_help_is_accepted() {
        for text in [run::EXAMPLES, verify::EXAMPLES, reading::EXAMPLES, blast::EXAMPLES] {
            let text = text.replace("\\\n", " ");
            let examples: Vec<_> =
                text.lines().filter_map(|line| line.split_once("penstock loadgen ")).collect();
            assert!(!examples.is_empty(), "{text}");
            for (_, example) in examples {
                let example = example.split(['>', '|']).next().unwrap_or_default();
                let words: Vec<_> = example.split_whitespace().collect();
                parse(&words.join(" ")).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
    }

    #[test]
    fn verifying_needs_something_to_compare_with() {
        let error = parse("verify --ledger x").unwrap_err().to_string();
        assert!(error.contains("--kafka"), "{error}");
        assert!(parse("run --ca-key k --verify").is_err());
        assert!(parse("run --ca-key k --verify --kafka localhost:9092").is_ok());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5").is_err() && duration("-5s").is_err());
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let gateway =
            |gateway: &str| Gateway { gateway: gateway.into(), ca: "x".into(), certs: None, ca_key: None };
        assert_eq!(gateway("localhost:8883").address().unwrap(), ("localhost".into(), 8883));
        for wrong in ["localhost", "localhost:", "localhost:99999", "[::1]:8883"] {
            assert!(gateway(wrong).address().unwrap_err().to_string().contains(wrong));
        }
    }
}
