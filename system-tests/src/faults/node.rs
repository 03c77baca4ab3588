//! A place for a Penstock process that is killed, stopped and started again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use crate::process::Penstock;
use crate::wait::until;

/// One place for a Penstock process: its name, role, configuration and ports stay the same.
#[derive(Debug)]
pub struct Node {
    /// The process's name.
    pub name: String,
    role: &'static str,
    config: PathBuf,
    admin: SocketAddr,
    /// None while it is down on purpose.
    process: Mutex<Option<Penstock>>,
}

impl Node {
    /// A place whose process runs a role with this configuration file. It is down.
    pub fn new(name: &str, role: &'static str, config: PathBuf, admin: SocketAddr) -> Self {
        Self { name: name.to_owned(), role, config, admin, process: Mutex::new(None) }
    }

    /// Starts it, unless it runs.
    pub fn start(&self) {
        let mut process = self.process.lock();
        if process.as_mut().is_none_or(|process| process.exit_status().is_some()) {
            *process = Some(Penstock::start(&[self.role], &self.config, self.admin));
        }
    }

    /// Something done with the process, if it is not down on purpose; it may have ended by itself.
    pub fn with<T>(&self, work: impl FnOnce(&mut Penstock) -> T) -> Option<T> {
        self.process.lock().as_mut().map(work)
    }

    /// The same, unless somebody else is at it.
    pub fn try_with<T>(&self, work: impl FnOnce(&mut Penstock) -> T) -> Option<T> {
        self.process.try_lock()?.as_mut().map(work)
    }

    /// Takes the process away: from now on it is down on purpose.
    pub fn take(&self) -> Option<Penstock> {
        self.process.lock().take()
    }

    /// Waits until it is ready, unless it is down on purpose.
    ///
    /// # Panics
    /// Where it does not become ready, or has ended.
    pub fn wait_ready(&self, deadline: Duration) {
        until(&format!("{} to be ready", self.name), deadline, || {
            let ended = self.with(Penstock::exit_status).flatten();
            assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.name, self.log_tail(20));
            self.with(|process| process.is_ready()).unwrap_or(true)
        });
    }

    /// Lets a stopped process go on. One that has ended by itself is noted in `unexpected` and started again.
    pub fn heal(&self, unexpected: &Mutex<Vec<String>>) {
        let ended = self.with(|process| {
            process.signal_if_alive(Signal::SIGCONT);
            process.exit_status()
        });
        if let Some(Some(status)) = ended {
            unexpected.lock().push(format!("{} ended by itself: {status}", self.name));
            self.start();
        }
    }

    /// What it has logged, over all its lives.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.config.with_extension(format!("{}.log", self.role)), lines)
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
