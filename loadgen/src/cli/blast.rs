//! `penstock loadgen blast`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Gateway, MqttVersion, duration, exit_code, raise_open_files_max};
use crate::blast::{BlastOptions, blast};

pub(super) const EXAMPLES: &str = "\
Examples:
  penstock loadgen blast --ca-key certs/ca.key --connections 2000 --count 1000000 --inflight 10

  Another broker, without client certificates:
    penstock loadgen blast --gateway localhost:8884 --ca mosquitto/ca.pem --topic 'bench/{device}' --mqtt 3.1.1

One message is one TLS record. All connections stand before the clock starts. Nothing is re-sent: the first lost
connection ends the run, with exit code 1.";

/// `penstock loadgen blast`
#[derive(Args, Debug)]
pub struct Blast {
    #[command(flatten)]
    gateway: Gateway,
    /// Number of connections
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// Messages over all connections
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    count: u64,
    /// Messages in flight for each connection
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    inflight: u16,
    /// Protocol version
    #[arg(long, value_enum, default_value = "5")]
    mqtt: MqttVersion,
    /// Topic; {device} stands for the connection's device [default: devices/{device}/readings]
    #[arg(long)]
    topic: Option<String>,
    /// Minted device ids follow from this number
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// The longest the run may take, and as long again for connecting
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Blast {
    pub(super) async fn run(&self, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
        let (host, port) = self.gateway.address()?;
        let options = BlastOptions {
            host,
            port,
            ca_pem: self.gateway.ca_pem()?,
            identities: self.gateway.identities()?,
            topic: self.topic.clone(),
            connections: usize::try_from(self.connections)?,
            count: self.count,
            inflight_max: self.inflight,
            version: self.mqtt.into(),
            seed: self.seed,
            timeout: self.timeout,
        };
        raise_open_files_max();
        let report = tokio::select! {
            report = blast(&options) => report?,
            () = cancel.cancelled() => bail!("interrupted"),
        };
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            println!(
                "{} acknowledged in {:.3} s: {:.0} a second",
                report.acked, report.elapsed_s, report.acked_per_s
            );
            if let Some(latency) = report.puback_ms {
                println!(
                    "PUBACK ms: p50 {:.1}  p95 {:.1}  p99 {:.1}  max {:.1}",
                    latency.p50, latency.p95, latency.p99, latency.max
                );
            }
            if report.refused > 0 {
                println!("{} refused", report.refused);
            }
            if let Some(error) = &report.error {
                println!("error: {error}");
            }
        }
        Ok(exit_code(report.complete))
    }
}
