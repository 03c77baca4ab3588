//! What Kafka and ClickHouse have in common: a handle of a server that is a child process, or one of the user's.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::server::{Launch, Server, Stopped};
use crate::workdir::WorkDir;

/// Two processes may still meet on a port (a program that is not ours binds it between our look and the server's bind).
const PORT_ATTEMPTS_MAX: u32 = 3;
const BIND_FAILURE: &str = "Address already in use";
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The ports of a server of ours, which say what it is.
pub trait Ports: Debug {
    /// The server's name.
    const NAME: &'static str;
    /// The variable that names one of the user's.
    const ENV: &'static str;

    /// Whether a server answers at an address.
    ///
    /// # Errors
    /// Why it does not.
    fn probe(address: &str) -> Result<(), String>;
}

/// A server: a child process which is killed when the last clone of this handle is dropped or this process ends, or one
/// of the user's, which is never touched. Methods block: from async code call them in `tokio::task::spawn_blocking`, with
/// a clone.
#[derive(Debug)]
pub struct Managed<P>(Arc<Inner<P>>);

#[derive(Debug)]
enum Inner<P> {
    // The server comes first: it is killed before its directory is removed and its ports are given back.
    Ours { server: Box<Server>, ports: P, dir: WorkDir },
    External { address: String },
}

impl<P> Clone for Managed<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Ports> Managed<P> {
    /// The one that the user names in [`Ports::ENV`]; none if there is none.
    pub(crate) fn of_the_user() -> Result<Option<Self>> {
        match std::env::var(P::ENV) {
            Ok(address) if !address.is_empty() => Self::at(address).map(Some),
            _ => Ok(None),
        }
    }

    /// One of the user's, which must answer.
    pub(crate) fn at(address: String) -> Result<Self> {
        match P::probe(&address) {
            Ok(()) => Ok(Self(Arc::new(Inner::External { address }))),
            Err(why) => Err(Error::Config { what: P::ENV, value: address, why }),
        }
    }

    /// Starts one of our own in `dir`, or in a temporary directory, on ports that are `free`.
    pub(crate) fn start_own(
        dir: Option<&Path>,
        progress: &Progress,
        free: impl Fn() -> Result<P>,
        launch: impl Fn(&Path, &P) -> Result<Launch>,
    ) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let dir = dir.map_or_else(WorkDir::temporary, WorkDir::kept)?;
            let ports = free()?;
            match Server::start(launch(dir.path(), &ports)?) {
                Ok(server) => {
                    return Ok(Self(Arc::new(Inner::Ours { server: Box::new(server), ports, dir })));
                }
                Err(Error::Exited { log, .. })
                    if log.contains(BIND_FAILURE) && attempt < PORT_ATTEMPTS_MAX =>
                {
                    progress.say(format!("{} met a taken port; trying others", P::NAME));
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The ports of ours, the address of the user's.
    pub(crate) fn place(&self) -> Result<&P, &str> {
        match &*self.0 {
            Inner::Ours { ports, .. } => Ok(ports),
            Inner::External { address } => Err(address),
        }
    }

    /// Process id; none if it does not run or is the user's.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.server("ask for").ok().and_then(Server::pid)
    }

    /// Whether the process runs (paused counts). For the user's: whether it answers.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match &*self.0 {
            Inner::Ours { server, .. } => server.is_running(),
            Inner::External { address } => P::probe(address).is_ok(),
        }
    }

    /// Directory of data, configuration and log; none if it is the user's.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        match &*self.0 {
            Inner::Ours { dir, .. } => Some(dir.path()),
            Inner::External { .. } => None,
        }
    }

    /// The last `lines` lines of what it printed and of its log; empty if it is the user's.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.server("read").map(|server| server.launch().log_tail(lines)).unwrap_or_default()
    }

    /// SIGKILL. When this returns the process is gone; its data stays for [`Self::restart`].
    ///
    /// # Errors
    /// [`Error::NotOurs`], [`Error::NotRunning`].
    pub fn kill_9(&self) -> Result<()> {
        self.server("kill")?.kill_9()
    }

    /// SIGSTOP. When this returns the process has stopped: connections stay open and nothing answers.
    ///
    /// # Errors
    /// [`Error::NotOurs`], [`Error::NotRunning`], [`Error::Signal`].
    pub fn pause(&self) -> Result<()> {
        self.server("pause")?.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// [`Error::NotOurs`], [`Error::NotRunning`], [`Error::Signal`].
    pub fn resume(&self) -> Result<()> {
        self.server("resume")?.resume()
    }

    /// SIGTERM, and SIGKILL if it still runs after 20 s.
    ///
    /// # Errors
    /// [`Error::NotOurs`].
    pub fn stop(&self) -> Result<Stopped> {
        Ok(self.server("stop")?.stop(STOP_LIMIT))
    }

    /// Starts it again on the same ports and data, and waits until it is ready; one that runs is stopped first.
    ///
    /// # Errors
    /// [`Error::NotOurs`], or as for the first start.
    pub fn restart(&self) -> Result<()> {
        self.server("restart")?.restart(STOP_LIMIT)
    }

    fn server(&self, operation: &'static str) -> Result<&Server> {
        match &*self.0 {
            Inner::Ours { server, .. } => Ok(server),
            Inner::External { .. } => Err(Error::NotOurs { server: P::NAME, operation, given_by: P::ENV }),
        }
    }
}
