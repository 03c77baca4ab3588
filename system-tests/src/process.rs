//! A Penstock process that a test can kill, pause, stop and start again.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_devstack::spawn_bound;

use crate::wait::{until, until_some};

const READY_DEADLINE: Duration = Duration::from_secs(60);

/// One `penstock run` as a child process; killed when dropped, and by the kernel when this process ends.
#[derive(Debug)]
pub struct Penstock {
    roles: Vec<String>,
    config: PathBuf,
    admin: SocketAddr,
    log: PathBuf,
    child: Child,
}

/// The program under test: beside this program, or, as tests have a folder of their own, beside that.
///
/// # Panics
/// Where it has not been built.
pub(crate) fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let beside = this.ancestors().skip(1).take(2).map(|folder| folder.join("penstock"));
    let program = beside.clone().find(|program| program.exists());
    program.unwrap_or_else(|| {
        panic!("penstock is missing in {:?}: cargo build --bin penstock", beside.collect::<Vec<_>>())
    })
}

/// Runs a command that is to end by itself.
///
/// # Panics
/// Where it does not end within a minute.
pub(crate) fn run_to_end(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn_bound(command).unwrap();
    let ended = || child.try_wait().unwrap();
    until_some("the command to end", READY_DEADLINE, ended);
    child.wait_with_output().unwrap()
}

impl Penstock {
    /// Starts roles with a configuration file.
    pub fn start(roles: &[&str], config: &Path, admin: SocketAddr) -> Self {
        let log = config.with_extension(format!("{}.log", roles.join("-")));
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let child = spawn(&roles, config, &log);
        Self { roles, config: config.to_owned(), admin, log, child }
    }

    /// Starts roles and waits until they are ready.
    ///
    /// # Panics
    /// Where they do not become ready; shows the log.
    pub fn start_ready(roles: &[&str], config: &Path, admin: SocketAddr) -> Self {
        let mut process = Self::start(roles, config, admin);
        process.wait_ready();
        process
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Panics
    /// Where the process ends before, or takes too long; shows the log.
    pub fn wait_ready(&mut self) {
        until(
            &format!("{:?} to be ready; its log:\n{}", self.roles, self.log_text()),
            READY_DEADLINE,
            || {
                let ended = self.child.try_wait().unwrap();
                assert!(ended.is_none(), "{:?} ended with {ended:?}:\n{}", self.roles, self.log_text());
                self.is_ready()
            },
        );
    }

    /// Whether `/readyz` answers 200.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Sends a signal, unless it has ended.
    pub fn signal_if_alive(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            self.signal(signal);
        }
    }

    /// Kills it with -9 and waits until it is gone.
    pub fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again with the same roles, ports and log, and waits until it is ready.
    pub fn restart(&mut self) {
        self.start_again();
        self.wait_ready();
    }

    /// Starts it again with the same roles, ports and log.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.roles, &self.config, &self.log);
    }

    /// How it has ended; none while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Its state as in `/proc/PID/stat`: `T` is stopped by SIGSTOP.
    pub fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name before it stands in brackets and may hold some.
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// Where it does not end within the deadline.
    pub fn stop(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_end(deadline)
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    /// Where it does not end within the deadline.
    pub fn wait_end(&mut self, deadline: Duration) -> ExitStatus {
        until_some("the process to end", deadline, || self.child.try_wait().unwrap())
    }

    /// What the process has logged so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The value of a metric, summed over its label sets that contain `labels`; 0 where there is none yet.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.get("/metrics").unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// How many connections have ended with this outcome.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole")]
    pub fn ended(&self, outcome: &str) -> u64 {
        let label = format!("outcome=\"{outcome}\"");
        self.metric("penstock_gateway_connections_ended_total", &label) as u64
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// A GET on the admin port: the whole answer.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: penstock\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Penstock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(roles: &Vec<String>, config: &Path, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(program());
    command.arg("run").args(roles).arg("--config").arg(config);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    spawn_bound(command).unwrap()
}
