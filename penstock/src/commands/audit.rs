//! `penstock audit`: every record is one row or one dead letter.

use std::process::ExitCode;

use clap::Args;
use penstock_operator::Moment;
use penstock_operator::audit::Audit;

use crate::common::{Common, print, runtime};

/// Prove that every record of the readings topic is exactly one row or one dead letter
///
/// Compares the offsets of Kafka's records, of ClickHouse's rows and of the storage failures, up to what the writer has
/// committed, and prints each offset that is not as it must be. Reads only.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  penstock audit\n  penstock audit --from 2h\n  \
    penstock audit --from 2026-01-31T00:00:00Z --to 2026-02-01T00:00:00Z --json\n\n\
    Exit code 0: it holds. 1: it does not, or could not be found out.")]
pub(crate) struct AuditArgs {
    /// From when on: RFC 3339, or how long ago (90s, 30m, 2h, 7d, 4w) [default: the oldest record]
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Until when [default: what the writer has committed]
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    /// Print at most so many breaches; all are counted
    #[arg(long, default_value_t = 1000, value_name = "N")]
    breaches_max: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl AuditArgs {
    pub(crate) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let config = common.load()?.config;
        let audit = Audit { from: self.from, to: self.to, breaches_max: self.breaches_max };
        let report = audit.run(&config, runtime()?.handle())?;
        print(self.json, &report, |out| report.print(out))?;
        Ok(if report.holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
