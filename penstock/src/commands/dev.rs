//! `penstock dev up`, `down` and `status`: a Kafka and a ClickHouse for development.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use penstock_devstack::dev::{self, DevOptions, DownOptions, Health, ServerStatus, Status};
use penstock_devstack::{HostCommand, Progress};
use serde::Serialize;

/// The hidden subcommand in which this program hosts ClickHouse.
pub(crate) const HOST: &str = "clickhouse-host";

/// Servers for development: real ones, fetched once, started in the background.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start Kafka and ClickHouse in the background and wait until both are ready
    #[command(after_help = "Examples:\n  penstock dev up\n  penstock dev up --free-ports --json")]
    Up(Up),
    /// Stop them; their data stays unless --remove-data is given
    #[command(after_help = "Examples:\n  penstock dev down\n  penstock dev down --remove-data")]
    Down(Down),
    /// Say whether they run, and where
    #[command(after_help = "Example:\n  penstock dev status --json")]
    Status(Place),
}

/// Which servers.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// Folder of state, data and logs [default: $PENSTOCK_DEV_DIR, else a folder of your user's]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `penstock dev up`
#[derive(Args, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    place: Place,
    /// Kafka's port on 127.0.0.1
    #[arg(long, default_value_t = 9092, value_name = "PORT")]
    kafka_port: u16,
    /// ClickHouse's HTTP port on 127.0.0.1
    #[arg(long, default_value_t = 8123, value_name = "PORT")]
    http_port: u16,
    /// ClickHouse's native port on 127.0.0.1
    #[arg(long, default_value_t = 9000, value_name = "PORT")]
    native_port: u16,
    /// Take free ports instead
    #[arg(long, conflicts_with_all = ["kafka_port", "http_port", "native_port"])]
    free_ports: bool,
}

/// `penstock dev down`
#[derive(Args, Debug)]
pub(crate) struct Down {
    #[command(flatten)]
    place: Place,
    /// Remove data and logs too
    #[arg(long)]
    remove_data: bool,
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(up) => up.run(),
            Self::Down(down) => down.run(),
            Self::Status(place) => {
                let status = dev::status(place.dir)?;
                print(&status, place.json, || describe(&status))?;
                let ready =
                    [&status.kafka, &status.clickhouse].iter().all(|server| server.health == Health::Ready);
                Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

impl Up {
    fn run(self) -> anyhow::Result<ExitCode> {
        let host = HostCommand::this_program([HOST]).context("cannot tell where this program is")?;
        let up = dev::up(&DevOptions {
            dir: self.place.dir,
            kafka_port: self.kafka_port,
            http_port: self.http_port,
            native_port: self.native_port,
            free_ports: self.free_ports,
            host: Some(host),
            progress: Progress::stderr(),
            ..DevOptions::default()
        })?;
        print(&up, self.place.json, || describe(&up.status))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Down {
    fn run(self) -> anyhow::Result<ExitCode> {
        let down = dev::down(&DownOptions {
            dir: self.place.dir,
            remove_data: self.remove_data,
            progress: Progress::stderr(),
        })?;
        print(&down, self.place.json, || {
            let kept = if down.data_removed { "data removed" } else { "data kept" };
            format!("stopped; {kept} ({})", down.dir.display())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print(value: &impl Serialize, json: bool, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let line = if json { serde_json::to_string(value)? } else { text() };
    println!("{line}");
    Ok(())
}

fn describe(status: &Status) -> String {
    let line = |name: &str, server: &ServerStatus| {
        let health = match server.health {
            Health::Ready => "ready",
            Health::NotReady => "running, does not answer",
            Health::Died => "died",
            Health::Down => "down",
        };
        let address = server.address.as_deref().unwrap_or("-");
        format!("{name:<11} {health:<8} {address}  log {}", server.log.display())
    };
    format!("{}\n{}", line("kafka", &status.kafka), line("clickhouse", &status.clickhouse))
}
