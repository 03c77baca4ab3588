//! What can go wrong in the devstack, said so that the reader knows what to do next. Never retries, never logs.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the devstack. The text of each names the remedy, or shows the last lines of the server's log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program which is needed to fetch or run a server is not on the `PATH`.
    #[error(
        "`{tool}` was not found on the PATH; it is needed to {purpose}. Install it, on Debian: apt-get install {package}"
    )]
    MissingTool {
        /// Name of the program.
        tool: &'static str,
        /// What the devstack needs it for.
        purpose: &'static str,
        /// Debian package which has it.
        package: &'static str,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}):\n{output}")]
    ToolFailed {
        /// The command line.
        command: String,
        /// Exit status in words.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// A fetched file is not the one that was pinned.
    #[error("{file} has not the pinned contents: SHA-256 expected {expected}, found {found}. {remedy}")]
    Checksum {
        /// Name of the file.
        file: String,
        /// The pinned SHA-256, in hexadecimal.
        expected: String,
        /// The SHA-256 found (or `missing`, or `not pinned`).
        found: String,
        /// What to do.
        remedy: String,
    },
    /// A file could not be read, written or locked.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A fixed port is taken by another process.
    #[error("port {port} ({what}) is taken{}; stop it, or choose other ports (free ports: DevOptions::free_ports)",
        owner.as_ref().map(|o| format!(" by {o}")).unwrap_or_default())]
    PortBusy {
        /// The TCP port.
        port: u16,
        /// What the devstack wanted it for.
        what: &'static str,
        /// The process which listens there, if it could be found out.
        owner: Option<String>,
    },
    /// No free port was found.
    #[error("no free TCP port was found on 127.0.0.1 in {range}")]
    NoFreePort {
        /// The range which was searched.
        range: String,
    },
    /// The server ended while it was being started.
    #[error("{server} ended while starting ({status}); the end of its log:\n{log}")]
    Exited {
        /// `Kafka` or `ClickHouse`.
        server: &'static str,
        /// Exit status in words.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// The server did not answer in time.
    #[error("{server} was not ready after {waited_s} s ({why}); the end of its log:\n{log}")]
    NotReady {
        /// `Kafka` or `ClickHouse`.
        server: &'static str,
        /// How long was waited, in seconds.
        waited_s: u64,
        /// What the last probe said.
        why: String,
        /// The last lines of its log.
        log: String,
    },
    /// The server belongs to the user (`PENSTOCK_TEST_KAFKA`, `PENSTOCK_TEST_CLICKHOUSE`): it is never signalled.
    #[error(
        "cannot {operation} {server}: it is not ours (it was given by {given_by}); unset that variable to use a devstack"
    )]
    NotOurs {
        /// `Kafka` or `ClickHouse`.
        server: &'static str,
        /// What was asked for.
        operation: &'static str,
        /// The environment variable (or option) which named the server.
        given_by: &'static str,
    },
    /// The server does not run, so it cannot be signalled.
    #[error("cannot {operation} {server}: it is not running; start it again with restart()")]
    NotRunning {
        /// `Kafka` or `ClickHouse`.
        server: &'static str,
        /// What was asked for.
        operation: &'static str,
    },
    /// A signal was sent but the process did not follow it in time.
    #[error("{server} (pid {pid}) did not {operation} within {waited_s} s")]
    Signal {
        /// `Kafka` or `ClickHouse`.
        server: &'static str,
        /// Its process id.
        pid: i32,
        /// What was asked for.
        operation: &'static str,
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// The program which hosts ClickHouse was not found and could not be built.
    #[error(
        "the ClickHouse host program was not found: {why}. Build it with `cargo build -p penstock-devstack --bin penstock-clickhouse-host`, or name it in PENSTOCK_CLICKHOUSE_HOST"
    )]
    NoHost {
        /// What was tried.
        why: String,
    },
    /// This machine cannot run the pinned servers.
    #[error("{what} runs on {needed} only; name a server of your own in {variable} instead")]
    Platform {
        /// The server.
        what: &'static str,
        /// What it needs.
        needed: &'static str,
        /// The variable which names a server of the user's own.
        variable: &'static str,
    },
    /// An option or variable has a value which cannot be used.
    #[error("{what} is {value:?}: {why}")]
    Config {
        /// The option or variable.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        why: String,
    },
    /// The state file of `dev up` cannot be understood.
    #[error("{} cannot be understood ({why}); if no dev server runs, remove it", path.display())]
    State {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}

/// Result of the devstack's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
