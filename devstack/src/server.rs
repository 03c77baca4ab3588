//! One server process through its life: started, waited for, paused, killed, restarted, stopped. Knows nothing of
//! Kafka or ClickHouse. Never leaves a process behind: dropping it kills it.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::ports;
use crate::process::{ProcessId, wait_until};
use crate::spawn::{self, Lifetime};

/// A machine busy with a build may need long; a server which does not come up ends by itself much sooner.
const START_LIMIT: Duration = Duration::from_secs(120);
/// SIGSTOP, SIGCONT and SIGKILL are followed at once unless the machine is in trouble.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_millis(30);
const TAIL_BYTES_MAX: u64 = 64 << 10;
const ERROR_LOG_LINES: usize = 25;

/// How a server ended when it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// It followed SIGTERM.
    InOrder,
    /// It did not follow SIGTERM before the deadline, and was killed.
    Killed,
    /// It did not run.
    WasNotRunning,
}

/// Everything needed to start one server again and again with the same ports and data.
pub(crate) struct Launch {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) dir: PathBuf,
    /// Where standard output and standard error go: what is written before the server has its own log.
    pub(crate) output: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) port: u16,
    pub(crate) probe: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl Launch {
    pub(crate) fn spawn(&self, lifetime: Lifetime) -> Result<Child> {
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.output)
            .map_err(Error::io("open", &self.output))?;
        let errors = output.try_clone().map_err(Error::io("open", &self.output))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).stdin(Stdio::null()).stdout(output).stderr(errors);
        spawn::spawn(command, lifetime).map_err(Error::io("run", &self.program))
    }

    /// Waits until `child` listens itself and answers the probe.
    pub(crate) fn wait_ready(&self, mut ended: impl FnMut() -> Option<String>, pid: i32) -> Result<()> {
        let started = Instant::now();
        let mut why = "it does not listen yet".to_owned();
        while started.elapsed() < START_LIMIT {
            if let Some(status) = ended() {
                return Err(Error::Exited { server: self.name, status, log: self.log_tail(ERROR_LOG_LINES) });
            }
            if ports::process_listens(pid, self.port) {
                match (self.probe)() {
                    Ok(()) => return Ok(()),
                    Err(error) => why = error,
                }
            }
            thread::sleep(PROBE_INTERVAL);
        }
        Err(Error::NotReady {
            server: self.name,
            waited_s: START_LIMIT.as_secs(),
            why,
            log: self.log_tail(ERROR_LOG_LINES),
        })
    }

    /// The last `lines` lines of what it printed and of its log.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let mut text = tail(&self.output, lines);
        let log = tail(&self.log, lines);
        if !text.is_empty() && !log.is_empty() {
            text.push('\n');
        }
        text + &log
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A server which is a child of this process.
pub(crate) struct Server {
    launch: Launch,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(launch: Launch) -> Result<Self> {
        let server = Self { launch, child: Mutex::new(None) };
        server.start_again()?;
        Ok(server)
    }

    fn start_again(&self) -> Result<()> {
        let child = self.launch.spawn(Lifetime::Bound)?;
        let pid = pid_of(&child);
        *self.child.lock() = Some(child);
        let ready = self.launch.wait_ready(|| self.ended(), pid);
        if ready.is_err() {
            self.kill_and_reap();
        }
        ready
    }

    /// Exit status in words, once it has ended.
    fn ended(&self) -> Option<String> {
        let mut child = self.child.lock();
        match child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => None,
            Some(Ok(Some(status))) => {
                *child = None;
                Some(in_words(status))
            }
            Some(Err(error)) => Some(error.to_string()),
            None => Some("it was killed by this process".to_owned()),
        }
    }

    pub(crate) fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Its process id; none while it does not run.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.process().map(|process| process.pid)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process().is_some()
    }

    fn process(&self) -> Option<ProcessId> {
        let pid = self.child.lock().as_ref().map(pid_of)?;
        ProcessId::of(pid).filter(|process| process.is_alive())
    }

    fn running(&self, operation: &'static str) -> Result<ProcessId> {
        self.process().ok_or(Error::NotRunning { server: self.launch.name, operation })
    }

    fn not_followed(&self, process: ProcessId, operation: &'static str) -> Error {
        let waited_s = SIGNAL_LIMIT.as_secs();
        Error::Signal { server: self.launch.name, pid: process.pid, operation, waited_s }
    }

    /// SIGKILL; it is gone, and its ports are free, when this returns.
    pub(crate) fn kill_9(&self) -> Result<()> {
        self.running("kill")?;
        self.kill_and_reap();
        Ok(())
    }

    fn kill_and_reap(&self) {
        if let Some(mut child) = self.child.lock().take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP; it has stopped when this returns.
    pub(crate) fn pause(&self) -> Result<()> {
        let process = self.running("pause")?;
        process.signal(Signal::SIGSTOP);
        if wait_until(SIGNAL_LIMIT, || process.is_stopped()) {
            return Ok(());
        }
        Err(self.not_followed(process, "pause"))
    }

    /// SIGCONT; it runs when this returns.
    pub(crate) fn resume(&self) -> Result<()> {
        let process = self.running("resume")?;
        process.signal(Signal::SIGCONT);
        if wait_until(SIGNAL_LIMIT, || process.has_resumed()) {
            return Ok(());
        }
        Err(self.not_followed(process, "resume"))
    }

    /// SIGTERM, and SIGKILL if it still runs after `limit`.
    pub(crate) fn stop(&self, limit: Duration) -> Stopped {
        let Some(process) = self.process() else {
            self.kill_and_reap();
            return Stopped::WasNotRunning;
        };
        let in_order = terminate(process, limit);
        self.kill_and_reap();
        if in_order { Stopped::InOrder } else { Stopped::Killed }
    }

    /// Starts it on the same ports and data; one which still runs is stopped in order first.
    pub(crate) fn restart(&self, limit: Duration) -> Result<()> {
        self.stop(limit);
        self.start_again()
    }
}

/// SIGTERM (a stopped process has to go on to see it); true if it ended before `limit`.
pub(crate) fn terminate(process: ProcessId, limit: Duration) -> bool {
    process.signal(Signal::SIGTERM);
    process.signal(Signal::SIGCONT);
    wait_until(limit, || !process.is_alive())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill_and_reap();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.launch.name)
            .field("pid", &self.pid())
            .field("port", &self.launch.port)
            .finish_non_exhaustive()
    }
}

/// Linux process ids fit into an `i32`.
pub(crate) fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}

pub(crate) fn in_words(status: ExitStatus) -> String {
    status.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines_and_a_missing_file_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path, 3), "");
        fs::write(&path, (1..=5).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&path, 2), "line 4\nline 5");
    }

    fn shell(dir: &Path, script: &str) -> Launch {
        Launch {
            name: "Shell",
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            dir: dir.into(),
            output: dir.join("output"),
            log: dir.join("log"),
            port: 1,
            probe: Box::new(|| Ok(())),
        }
    }

    #[test]
    fn a_server_which_ends_while_starting_shows_status_and_output() {
        let dir = tempfile::tempdir().unwrap();
        let error = Server::start(shell(dir.path(), "echo the reason >&2; exit 7")).unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.contains("the reason"), "{error}");
    }

    fn running(dir: &Path, script: &str) -> Server {
        let launch = shell(dir, script);
        let child = launch.spawn(Lifetime::Bound).unwrap();
        Server { launch, child: Mutex::new(Some(child)) }
    }

    #[test]
    fn signals_do_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let server = running(dir.path(), "exec sleep 60");
        server.pause().unwrap();
        assert!(server.is_running());
        server.resume().unwrap();
        server.kill_9().unwrap();
        assert!(!server.is_running() && server.pid().is_none());
        assert!(matches!(server.pause(), Err(Error::NotRunning { .. })));
        assert_eq!(server.stop(Duration::ZERO), Stopped::WasNotRunning);
    }

    #[test]
    fn a_paused_server_can_be_stopped_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let server = running(dir.path(), "exec sleep 60");
        server.pause().unwrap();
        assert_eq!(server.stop(Duration::from_secs(10)), Stopped::InOrder);
    }

    #[test]
    fn a_server_which_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; touch ready; while :; do sleep 0.05; done";
        let server = running(dir.path(), script);
        assert!(wait_until(Duration::from_secs(10), || dir.path().join("ready").exists()));
        assert_eq!(server.stop(Duration::from_millis(100)), Stopped::Killed);
        assert!(!server.is_running());
    }
}
