//! `penstock migrate`: the ClickHouse schema.

use std::process::ExitCode;

use clap::Args;
use penstock_storage_writer::clickhouse::Client;
use penstock_storage_writer::migrations::{self, Migration, State, Status};

use crate::common::{Common, runtime};

/// Create or update the ClickHouse schema. The writer does the same at its start.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  penstock migrate\n  penstock migrate --dry-run\n  penstock migrate --status --json"
)]
pub(crate) struct Migrate {
    /// Print the SQL that would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Say which migrations are applied, and apply none
    #[arg(long, conflicts_with = "dry_run")]
    status: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Migrate {
    pub(crate) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let config = common.load()?.config.clickhouse;
        let client = Client::new(&config)?;
        let runtime = runtime()?;
        if self.status || self.dry_run {
            let statuses = runtime.block_on(migrations::status(&client, &config))?;
            return if self.status { self.show(&statuses) } else { self.show_sql(&statuses, &config) };
        }
        let applied = runtime.block_on(migrations::migrate(&client, &config))?;
        if self.json {
            println!("{}", serde_json::to_string(&applied)?);
        } else {
            println!("{} applied, {} were there", applied.applied.len(), applied.present.len());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, statuses: &[Status]) -> anyhow::Result<ExitCode> {
        if self.json {
            println!("{}", serde_json::to_string(statuses)?);
        } else {
            for status in statuses {
                println!("{:04} {:<12} {}", status.version, status.name, describe(&status.state));
            }
        }
        let changed = statuses.iter().find_map(migrations::changed);
        changed.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
    }

    fn show_sql(
        &self,
        statuses: &[Status],
        config: &penstock_service::config::ClickHouse,
    ) -> anyhow::Result<ExitCode> {
        let missing = |migration: &Migration| {
            statuses
                .iter()
                .any(|status| status.version == migration.version && matches!(status.state, State::Pending))
        };
        for migration in Migration::all().into_iter().filter(missing) {
            println!("-- {:04} {}", migration.version, migration.name);
            for statement in migration.statements(config)? {
                println!("{statement};\n");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(state: &State) -> String {
    match state {
        State::Pending => "pending".to_owned(),
        State::Applied { applied_at } => format!("applied {applied_at}"),
        State::Changed { applied_at, .. } => format!("applied {applied_at} from a file with another content"),
        State::Newer { applied_at } => format!("applied {applied_at} by a newer penstock"),
    }
}
