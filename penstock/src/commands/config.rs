//! `penstock config check` and `penstock config show`.

use std::process::ExitCode;

use clap::Subcommand;
use penstock_service::config;
use serde_json::json;

use crate::common::Common;

/// Look at the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check every layer and report all errors at once, with file and line
    #[command(
        after_help = "Examples:\n  penstock config check\n  penstock config check --config deploy/penstock.toml --json"
    )]
    Check {
        /// Print the errors as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the values in force and where each comes from; secrets are hidden
    #[command(after_help = "Examples:\n  penstock config show\n  penstock config show --json")]
    Show {
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub(crate) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check { json } => Ok(check(common, *json)),
            Self::Show { json } => {
                print!("{}", config::show(&common.load()?, *json));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn check(common: &Common, json: bool) -> ExitCode {
    let loaded = config::Config::load(common.config.as_deref(), config::environment(), &common.set);
    let errors: Vec<_> = loaded.as_ref().err().map(|errors| errors.iter().collect()).unwrap_or_default();
    if json {
        let errors: Vec<_> = errors
            .iter()
            .map(|error| json!({ "origin": error.origin.to_string(), "key": error.key, "message": error.message }))
            .collect();
        println!("{}", json!({ "ok": errors.is_empty(), "errors": errors }));
    } else if let Err(errors) = &loaded {
        eprintln!("{errors}");
    } else {
        println!("the configuration is good");
    }
    if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
