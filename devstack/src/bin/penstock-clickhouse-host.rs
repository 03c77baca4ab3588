//! Runs ClickHouse as a process for the devstack. Of no use by hand: `penstock dev up` and tests start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    penstock_devstack::clickhouse_host_main(std::env::args_os().skip(1))
}
