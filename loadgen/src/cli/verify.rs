//! `penstock loadgen verify`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Stores, progress, run};
use crate::ledger_file::read_ledger;
use crate::mqtt::Qos;
use crate::report::Report;
use crate::verify::verify;

pub(super) const EXAMPLES: &str = "\
Example:
  penstock loadgen verify --ledger run.csv --kafka localhost:9092 --clickhouse http://localhost:8123

The ledger is complete up to the last moment even if the load generator was killed. Readings that were published but
not acknowledged are not in it: they may be stored or not, and are not looked at.";

/// `penstock loadgen verify`
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("compare").args(["kafka", "clickhouse"]).multiple(true).required(true))]
pub struct Verify {
    /// Ledger written by `penstock loadgen run --ledger`
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    #[command(flatten)]
    stores: Stores,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) async fn run(&self, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
        let ledger = Arc::new(read_ledger(&self.ledger)?);
        let mut report = Report::of_ledger(&ledger, Qos::AtLeastOnce);
        let progress = progress::show_verification(report.acked);
        let expectation = self.stores.expectation();
        let found = tokio::select! {
            found = verify(&ledger, &expectation, progress) => found?,
            () = cancel.cancelled() => bail!("interrupted: nothing is verified"),
        };
        report.verified(found);
        run::print(&report, self.json)
    }
}
