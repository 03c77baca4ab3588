//! Penstock: the one binary. Parses, builds, waits, and drains with a deadline; everything else is in the roles.

mod cli;
mod commands;
mod common;
mod limits;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.command.execute(&cli.common) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("penstock: {error:#}");
            ExitCode::FAILURE
        }
    }
}
