//! The command line. Names are fixed by the design; every command has an example in its help.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use penstock_service::shutdown;

use crate::commands;
use crate::common::{Common, Role, runtime};

/// Sensor readings from fleets of devices to Kafka and ClickHouse: none lost, none counted twice.
///
/// A PUBACK means that Kafka has the reading on every in-sync replica; then it becomes a row.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run roles until SIGTERM; without names: gateway, writer, alerts and, where configured, notify in one process
    #[command(
        after_help = "Examples:\n  penstock run\n  penstock run gateway --config /etc/penstock/penstock.toml\n  \
        penstock run writer --set clickhouse.url=http://clickhouse:8123\n\n\
        SIGHUP reads certificates again. SIGTERM stops in good order; a second one at once.\n\
        Readiness and metrics: http://127.0.0.1:9464/readyz, /metrics"
    )]
    Run {
        /// Roles to run
        #[arg(value_enum, value_name = "ROLE")]
        roles: Vec<Role>,
    },
    /// Check or show the configuration
    #[command(subcommand)]
    Config(commands::config::Command),
    /// Check the rules of alerts, and see what they would have raised
    #[command(subcommand)]
    Rules(commands::rules::Command),
    /// Make certificates for development and tests
    #[command(subcommand)]
    Certs(penstock_certs::cli::Command),
    /// Create or update the ClickHouse schema
    Migrate(commands::migrate::Migrate),
    /// Look at dead letters, publish them again, or discard them
    #[command(subcommand)]
    Dlq(commands::dlq::Command),
    /// List alerts, acknowledge them, silence devices and rules
    #[command(subcommand)]
    Alerts(commands::alerts::Command),
    /// Prove that every record of the readings topic is exactly one row or one dead letter
    Audit(commands::audit::AuditArgs),
    /// Rebuild ClickHouse's rows from Kafka's records in a shadow table, and swap it in
    Replay(commands::replay::ReplayArgs),
    /// Start, stop and look at a Kafka and a ClickHouse for development
    #[command(subcommand)]
    Dev(commands::dev::Command),
    /// Publish as a fleet of devices and verify that everything acknowledged is stored
    #[command(subcommand)]
    Loadgen(penstock_loadgen::cli::Command),
    /// Host ClickHouse for `penstock dev`.
    #[command(name = commands::dev::HOST, hide = true)]
    ClickHouseHost {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

impl Command {
    /// Runs the command to its end.
    pub(crate) fn execute(self, common: &Common) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run { roles } => commands::run::run(common, roles),
            Self::Config(command) => command.run(common),
            Self::Rules(command) => command.run(),
            Self::Certs(command) => command.run(),
            Self::Migrate(command) => command.run(common),
            Self::Dlq(command) => command.run(common),
            Self::Alerts(command) => command.run(common),
            Self::Audit(command) => command.run(common),
            Self::Replay(command) => command.run(common),
            Self::Dev(command) => command.run(),
            Self::Loadgen(command) => runtime()?.block_on(async {
                let signals = shutdown::signals().context("cannot take over signals")?;
                command.run(signals.shutdown).await
            }),
            Self::ClickHouseHost { args } => Ok(penstock_devstack::clickhouse_host_main(args)),
        }
    }
}
