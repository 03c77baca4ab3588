//! `penstock rules check` and `penstock rules test`. Neither needs a server.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use penstock_alerter::rules::Summary;
use penstock_alerter::{Rehearsal, RuleSet, RulesError};
use serde_json::json;

use crate::common::print;

/// Check the rules of alerts, and see what they would have raised.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a rules file and report all problems at once, with file and line
    #[command(
        after_help = "Examples:\n  penstock rules check deploy/rules.toml\n  penstock rules check rules.toml --json\n\n\
        Exit code 1: the file cannot be used. What rules can say: docs/RULES.md"
    )]
    Check {
        /// The rules file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show which alerts readings from a file would have raised, and when
    ///
    /// The CSV file's first line names its columns: device_id, timestamp (RFC 3339 or milliseconds since the Unix epoch), and
    /// any of temperature, humidity, pressure, battery_level, metrics.NAME, sequence, received_at. Lines are readings in the
    /// order of their arrival; without received_at they arrive when they were measured.
    #[command(after_help = "Examples:\n  penstock rules test rules.toml --readings yesterday.csv\n  \
        penstock rules test rules.toml --readings yesterday.csv --json | jq '.alerts[].rule'\n\n\
        Exit code 1: one of the files cannot be used.")]
    Test {
        /// The rules file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The readings
        #[arg(long, value_name = "CSV")]
        readings: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check { file, json } => check(file, *json),
            Self::Test { file, readings, json } => test(file, readings, *json),
        }
    }
}

fn check(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    match RuleSet::load(file) {
        Ok(rules) => {
            let summary = Summary::of(&rules);
            let good = json!({ "ok": true, "problems": [], "rules": summary.rules, "state_bytes_max": summary.state_bytes_max });
            print(json, &good, |out| summary.print(out))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => refuse(&problems, json),
    }
}

fn test(file: &Path, readings: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let rules = match RuleSet::load(file) {
        Ok(rules) => Arc::new(rules),
        Err(problems) => return refuse(&problems, json),
    };
    let name = readings.display().to_string();
    let csv = File::open(readings)
        .with_context(|| format!("{name} cannot be read; name a CSV file of readings"))?;
    match Rehearsal::of(rules, &name, csv) {
        Ok(rehearsal) => {
            print(json, &rehearsal, |out| rehearsal.print(out))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => refuse(&problems, json),
    }
}

fn refuse(problems: &RulesError, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let listed: Vec<_> = problems
            .problems()
            .iter()
            .map(|problem| json!({ "file": problem.file, "line": problem.line, "message": problem.message }))
            .collect();
        print(true, &json!({ "ok": false, "problems": listed, "count": problems.len() }), |_| Ok(()))?;
    } else {
        eprintln!("{problems}");
    }
    Ok(ExitCode::FAILURE)
}
