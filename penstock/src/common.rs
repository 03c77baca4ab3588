//! What commands have in common: where the configuration comes from, which roles there are, the runtime.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use penstock_service::Config;
use penstock_service::config::{self, Loaded};
use serde::Serialize;

/// Where the configuration comes from: defaults <- file <- PENSTOCK_SECTION__KEY <- flags.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Configuration file [default: penstock.toml, where it exists]
    #[arg(long, short = 'c', global = true, env = config::FILE_VARIABLE, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one configuration key, e.g. --set gateway.listen=127.0.0.1:8883; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or("expected KEY=VALUE, e.g. gateway.listen=127.0.0.1:8883")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Common {
    /// Reads every layer of the configuration.
    pub(crate) fn load(&self) -> anyhow::Result<Loaded> {
        Config::load(self.config.as_deref(), config::environment(), &self.set)
            .map_err(|errors| anyhow::anyhow!("the configuration cannot be used\n{errors}"))
    }
}

/// A part of Penstock that runs until it is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Role {
    /// MQTT over TLS to Kafka
    Gateway,
    /// Kafka to ClickHouse
    Writer,
    /// Readings in Kafka to alerts in Kafka
    Alerts,
    /// Alert topics to an Alertmanager and webhooks
    Notify,
}

/// The runtime that a command's I/O runs on.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}

/// Writes a result to standard output: as one line of JSON, or as `for_people` does. A reader that has gone, such as
/// `head`, is no error.
pub(crate) fn print(
    json: bool,
    result: &impl Serialize,
    for_people: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = if json {
        let line = serde_json::to_string(result)?;
        writeln!(out, "{line}")
    } else {
        for_people(&mut out)
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written to")
        }
        _ => Ok(()),
    }
}
