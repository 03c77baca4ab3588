//! `penstock loadgen run`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::ailment::{AlarmRules, check};

use super::{
    Gateway, MqttVersion, QosLevel, Stores, duration, exit_code, key_value, progress, raise_open_files_max,
};
use crate::fleet::{Fleet, FleetOptions};
use crate::report::Report;
use crate::verify::verify;

pub(super) const EXAMPLES: &str = "\
Examples:
  Sixty devices, 1,000 readings a second for 30 s; certificates are minted in memory:
    penstock loadgen run --ca certs/ca.pem --ca-key certs/ca.key --devices 60 --rate 1000 --duration 30s

  The same, and then every acknowledged reading is looked up in Kafka and ClickHouse:
    penstock loadgen run --ca-key certs/ca.key --devices 60 --rate 1000 --duration 30s \\
      --kafka localhost:9092 --clickhouse http://localhost:8123 --verify

  A year of three real weather stations, as fast as it is acknowledged; one of them in batches:
    penstock loadgen run --ca-key certs/ca.key --stations loadgen/data/station-weather-2013.csv \\
      --stations-batch EWR=500

  What cannot be stored: one reading in ten must become a dead letter:
    penstock loadgen run --ca-key certs/ca.key --count 1000 --rate 0 --invalid-fraction 0.1 \\
      --kafka localhost:9092 --verify

The last line is `verdict: ok` only if every acknowledged reading is stored exactly once; exit code 1 otherwise.
`queryable ms` is measured by asking ClickHouse every 20 ms for the latest readings of a few devices: an upper bound.";

/// Duration of a run that has no other end.
const DURATION: Duration = Duration::from_secs(30);

/// `penstock loadgen run`
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("stores").args(["kafka", "clickhouse"]).multiple(true))]
pub struct Run {
    #[command(flatten)]
    gateway: Gateway,
    #[command(flatten)]
    stores: Stores,
    /// Number of devices [default: 10, or 0 with --stations]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    devices: Option<u32>,
    /// Readings per second over all devices; 0 publishes as fast as readings are acknowledged
    #[arg(long, default_value_t = 10.0, value_name = "R", value_parser = rate)]
    rate: f64,
    /// How long devices publish [default: 30s, unless --count or --stations is given]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
    /// How many readings the devices publish together
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Quality of service
    #[arg(long, value_enum, default_value = "1")]
    qos: QosLevel,
    /// Protocol version
    #[arg(long, value_enum, default_value = "5")]
    mqtt: MqttVersion,
    /// Readings a publish; more than 1 go to the batch topic
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
    /// Publishes in flight for each device
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=30_000))]
    inflight: u16,
    /// Replay a station file, as fast as acknowledged
    #[arg(long, value_name = "CSV")]
    stations: Option<PathBuf>,
    /// Publish this station's readings in batches of N; may be repeated
    #[arg(long, value_name = "NAME=N", value_parser = station_batch, requires = "stations")]
    stations_batch: Vec<(String, usize)>,
    /// Readings and minted device ids follow from this number
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Share of readings that are no valid ones, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "F", value_parser = fraction)]
    invalid_fraction: f64,
    /// Of the devices, N overheat, N run out of battery and N fall silent; with --verify, whether each has raised its
    /// alerts once, and no other has (rules: --hot-rule, --silent-rule, and one of kind low-battery)
    #[arg(long, default_value_t = 0, value_name = "N")]
    ailing: usize,
    /// The rule that must notice devices over 80 degrees Celsius
    #[arg(long, default_value = "SUSTAINED_HIGH_TEMPERATURE", value_name = "RULE")]
    hot_rule: String,
    /// The rule that must notice silent devices
    #[arg(long, default_value = "SILENT", value_name = "RULE")]
    silent_rule: String,
    /// Append outcomes to this file, for `penstock loadgen verify`
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Afterwards compare with what --kafka and --clickhouse hold
    #[arg(long, requires = "stores")]
    verify: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| (0.0..=1e7).contains(rate));
    rate.ok_or_else(|| "expected a number from 0 to 10000000".to_owned())
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|fraction: &f64| (0.0..=1.0).contains(fraction));
    fraction.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn station_batch(text: &str) -> Result<(String, usize), String> {
    let (name, batch) = key_value(text)?;
    let batch = batch.parse().ok().filter(|batch| (1..=10_000).contains(batch));
    Ok((name, batch.ok_or("expected NAME=N with N from 1 to 10000")?))
}

impl Run {
    fn options(&self) -> anyhow::Result<FleetOptions> {
        let Some(identities) = self.gateway.identities()? else {
            bail!(
                "devices need certificates: give --certs DIR (made by `penstock certs devices`), or --ca-key FILE to mint \
                 them in memory"
            );
        };
        let (host, port) = self.gateway.address()?;
        let devices = self.devices.unwrap_or(if self.stations.is_some() { 0 } else { 10 });
        let endless = self.count.is_none() && devices > 0;
        Ok(FleetOptions {
            devices: usize::try_from(devices)?,
            rate: self.rate,
            duration: self.duration.or(endless.then_some(DURATION)),
            count: self.count,
            batch: usize::from(self.batch),
            invalid_fraction: self.invalid_fraction,
            ailing: self.ailing,
            stations: self.stations.clone(),
            stations_batch: self.stations_batch.iter().cloned().collect::<BTreeMap<_, _>>(),
            qos: self.qos.into(),
            version: self.mqtt.into(),
            inflight_max: self.inflight,
            seed: self.seed,
            ledger: self.ledger.clone(),
            probe: self.stores.clickhouse(),
            ..FleetOptions::new(host, port, self.gateway.ca_pem()?, identities)
        })
    }

    pub(super) async fn run(&self, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
        let options = self.options()?;
        raise_open_files_max();
        let fleet = Fleet::new(options)?;
        let shown = CancellationToken::new();
        let expected = fleet.readings_expected();
        let display = tokio::spawn(progress::show_run(fleet.stats(), expected, shown.clone()));
        let ailing = fleet.ailing();
        let ran = fleet.run(cancel).await;
        shown.cancel();
        display.await?;
        let (ledger, mut report) = ran?;
        if self.verify {
            let progress = progress::show_verification(report.acked);
            report.verified(verify(&Arc::new(ledger), &self.stores.expectation(), progress).await?);
            if let Some(kafka) = self.stores.kafka().filter(|_| !ailing.is_empty()) {
                let rules = AlarmRules { hot: self.hot_rule.clone(), silent: self.silent_rule.clone() };
                let patience = self.stores.deadline;
                let checked = tokio::task::spawn_blocking(move || check(&kafka, &ailing, &rules, patience));
                report.alarmed(checked.await?.context("cannot read the alert topics")?);
            }
        }
        print(&report, self.json)
    }
}

/// Prints a report to standard output; differences, which may be many, come before the numbers.
pub(super) fn print(report: &Report, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        if let Some(found) = &report.verification {
            print!("{}", found.differences);
        }
        println!("{}", report.table());
        if let Some(alarms) = &report.alarms {
            println!("{alarms}");
        }
        println!("verdict: {}", report.verdict);
    }
    Ok(exit_code(report.verdict.is_success()))
}
