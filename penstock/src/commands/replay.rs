//! `penstock replay`: ClickHouse's rows from Kafka's records, anew.

use std::io::{IsTerminal as _, Write as _, stderr, stdin};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use penstock_operator::Moment;
use penstock_operator::replay::{Replay, ReplayError};
use penstock_service::shutdown;

use crate::common::{Common, print, runtime};

/// Exit code for a command line that cannot be carried out.
const USAGE: u8 = 2;

/// Rebuild ClickHouse's rows from Kafka's records in a shadow table, and swap it in
///
/// Rows of records that were received between --from and --to are rebuilt as the writer would make them; all other rows
/// stay as they are, also those whose records Kafka no longer holds. Writers go on meanwhile; they are held up while the
/// tables are exchanged, usually for less than a second, and take up their work a few seconds later. Can be ended at any time:
/// `readings` is the old table or the new one, whole; run the same command again.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  penstock replay --from 2h --dry-run\n  penstock replay --from 2h --yes\n  \
    penstock replay --from 2026-01-31T00:00:00Z --to 2026-02-01T00:00:00Z --keep-old\n  penstock replay --yes --json\n\n\
    Exit code 0: done. 1: not done, run it again; `readings` is whole. 2: the command line cannot be carried out."
)]
pub(crate) struct ReplayArgs {
    /// From when on: RFC 3339, or how long ago (90s, 30m, 2h, 7d, 4w) [default: the oldest record]
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Until when [default: what the writer has committed]
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(long)]
    yes: bool,
    /// Keep the old table under another name
    #[arg(long)]
    keep_old: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ReplayArgs {
    pub(crate) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let replay = Replay { from: self.from, to: self.to, keep_old: self.keep_old };
        let is_asked = !self.yes && !self.dry_run;
        if is_asked && !(stdin().is_terminal() && stderr().is_terminal()) {
            eprintln!("penstock: a replay replaces rows: say --yes, or --dry-run to see which");
            return Ok(ExitCode::from(USAGE));
        }
        let config = common.load()?.config;
        let runtime = runtime()?;
        if self.dry_run || is_asked {
            let plan = match replay.plan(&config, runtime.handle()) {
                Err(error @ ReplayError::Backwards { .. }) => return Ok(usage(&error)),
                plan => plan?,
            };
            if self.dry_run {
                print(self.json, &plan, |out| plan.print(out))?;
                return Ok(ExitCode::SUCCESS);
            }
            plan.print(&mut stderr())?;
            if !confirmed()? {
                eprintln!("nothing was done");
                return Ok(ExitCode::FAILURE);
            }
        }
        let signals = runtime.block_on(async { shutdown::signals() }).context("cannot take over signals")?;
        let outcome = match replay.run(&config, runtime.handle(), &signals.shutdown, &|_| ()) {
            Err(error @ ReplayError::Backwards { .. }) => return Ok(usage(&error)),
            outcome => outcome?,
        };
        print(self.json, &outcome, |out| outcome.print(out))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn usage(error: &ReplayError) -> ExitCode {
    eprintln!("penstock: {error}");
    ExitCode::from(USAGE)
}

fn confirmed() -> anyhow::Result<bool> {
    write!(stderr(), "rebuild these rows? [y/N] ")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
