//! Servers for development that outlive the command which started them: up, status, down. What runs is kept in a
//! state file. Never touches a process that it did not start.

mod state;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;

use self::state::{ClickHouseState, KafkaState, State};
use crate::clickhouse::{self, ClickHouseOptions, ClickHousePorts};
use crate::dist;
use crate::dist::kafka::KafkaDist;
use crate::error::{Error, Result};
use crate::host_command::HostCommand;
use crate::kafka::{self, Jvm, KafkaOptions, KafkaPorts};
use crate::ports::PortLease;
use crate::process::{ProcessId, wait_until};
use crate::progress::Progress;
use crate::server::{self, Launch, Stopped};
use crate::spawn::Lifetime;
use crate::{cache, probe, workdir};

const KAFKA_DIR: &str = "kafka";
const CLICKHOUSE_DIR: &str = "clickhouse";
const STOP_LIMIT: Duration = Duration::from_secs(20);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How to start the servers for development.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// Directory for state, data and logs. None: [`default_dir`].
    pub dir: Option<PathBuf>,
    /// Kafka's port on 127.0.0.1.
    pub kafka_port: u16,
    /// ClickHouse's HTTP port on 127.0.0.1.
    pub http_port: u16,
    /// ClickHouse's native port on 127.0.0.1.
    pub native_port: u16,
    /// Take free ports instead of the three above.
    pub free_ports: bool,
    /// Java heap of Kafka, in MiB.
    pub kafka_heap_mib: u32,
    /// Limit of ClickHouse's memory, in bytes.
    pub clickhouse_memory_bytes_max: u64,
    /// The program which hosts ClickHouse; it must stay where it is. None: [`HostCommand::find`].
    pub host: Option<HostCommand>,
    /// Receives what is being done.
    pub progress: Progress,
}

impl Default for DevOptions {
    fn default() -> Self {
        Self {
            dir: None,
            kafka_port: 9092,
            http_port: 8123,
            native_port: 9000,
            free_ports: false,
            kafka_heap_mib: 1024,
            clickhouse_memory_bytes_max: 4 << 30,
            host: None,
            progress: Progress::default(),
        }
    }
}

/// What [`down`] is to do.
#[derive(Debug, Clone, Default)]
pub struct DownOptions {
    /// As in [`DevOptions`].
    pub dir: Option<PathBuf>,
    /// Remove all data and logs too.
    pub remove_data: bool,
    /// Receives what is being done.
    pub progress: Progress,
}

/// State of one server for development.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It runs and answers.
    Ready,
    /// It runs and does not answer (yet).
    NotReady,
    /// It was started and has ended without [`down`]: its log says why.
    Died,
    /// It was not started, or [`down`] stopped it.
    Down,
}

/// One server for development.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// Whether it can be used.
    pub health: Health,
    /// Process id, while it runs.
    pub pid: Option<i32>,
    /// Kafka: `host:port`; ClickHouse: `http://host:port`. None if it is down.
    pub address: Option<String>,
    /// ClickHouse: port of the native protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native_port: Option<u16>,
    /// Its log.
    pub log: PathBuf,
}

/// Both servers for development.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Directory of state, data and logs.
    pub dir: PathBuf,
    /// Kafka.
    pub kafka: ServerStatus,
    /// ClickHouse.
    pub clickhouse: ServerStatus,
}

/// What [`up`] did.
#[derive(Debug, Clone, Serialize)]
pub struct Up {
    /// Whether Kafka was started (else it was running).
    pub started_kafka: bool,
    /// Whether ClickHouse was started (else it was running).
    pub started_clickhouse: bool,
    /// Both servers, ready.
    #[serde(flatten)]
    pub status: Status,
}

/// What [`down`] did.
#[derive(Debug, Clone, Serialize)]
pub struct Down {
    /// Directory of state, data and logs.
    pub dir: PathBuf,
    /// How Kafka ended.
    pub kafka: Stopped,
    /// How ClickHouse ended.
    pub clickhouse: Stopped,
    /// Whether data and logs were removed.
    pub data_removed: bool,
}

/// Where state, data and logs are by default: `$PENSTOCK_DEV_DIR`, `$XDG_STATE_HOME/penstock/dev` or
/// `~/.local/state/penstock/dev`.
pub fn default_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("PENSTOCK_DEV_DIR")
        .or_else(|| var("XDG_STATE_HOME").map(|dir| dir.join("penstock/dev")))
        .or_else(|| var("HOME").map(|dir| dir.join(".local/state/penstock/dev")))
        .unwrap_or_else(|| workdir::base().join("dev"))
}

/// Starts both servers in the background and waits until both are ready. What runs already is left as it is. If one of
/// them died it is started again on the ports it had, on its data.
///
/// # Errors
/// [`Error::PortBusy`] if a port is taken; if a server cannot be fetched or does not get ready: then what was
/// started by this call is ended.
pub fn up(options: &DevOptions) -> Result<Up> {
    let dir = absolute(options.dir.clone())?;
    let _lock = cache::lock(&dir.join("lock"))?;
    let before = State::read(&dir)?;
    let kafka_was =
        before.as_ref().filter(|state| state.is_alive(state.kafka.process)).map(|state| &state.kafka);
    let clickhouse_was = before
        .as_ref()
        .filter(|state| state.is_alive(state.clickhouse.process))
        .map(|state| &state.clickhouse);
    // Ports of an earlier time bind only what still uses one of them.
    let ports_of = before.as_ref().filter(|_| kafka_was.is_some() || clickhouse_was.is_some());
    let mut started = Vec::new();
    let result = start_missing(&dir, options, ports_of, (kafka_was, clickhouse_was), &mut started);
    if let Err(error) = result {
        started.iter().for_each(Started::kill);
        match &before {
            Some(state) => state.write(&dir)?,
            None => State::remove(&dir)?,
        }
        return Err(error);
    }
    Ok(Up {
        started_kafka: kafka_was.is_none(),
        started_clickhouse: clickhouse_was.is_none(),
        status: status_in(dir)?,
    })
}

/// A server started by this call. Its `Child` is never waited for by a command that ends.
struct Started {
    launch: Launch,
    child: parking_lot::Mutex<Child>,
    process: ProcessId,
}

impl Started {
    fn new(launch: Launch) -> Result<Self> {
        let child = launch.spawn(Lifetime::Detached)?;
        let pid = server::pid_of(&child);
        let process = ProcessId::of(pid).ok_or_else(|| Error::Exited {
            server: launch.name,
            status: "at once".to_owned(),
            log: launch.log_tail(25),
        })?;
        Ok(Self { launch, child: parking_lot::Mutex::new(child), process })
    }

    fn wait_ready(&self) -> Result<()> {
        let ended = || self.child.lock().try_wait().ok().flatten().map(server::in_words);
        self.launch.wait_ready(ended, self.process.pid)
    }

    fn kill(&self) {
        let mut child = self.child.lock();
        // Both fail only if it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts what does not run, writes the state as soon as both have a process (so that `down` finds them even if
/// this is interrupted), then waits for all that was started.
fn start_missing(
    dir: &Path,
    options: &DevOptions,
    before: Option<&State>,
    running: (Option<&KafkaState>, Option<&ClickHouseState>),
    started: &mut Vec<Started>,
) -> Result<()> {
    // Every port is looked at before anything is started.
    let kafka_ports = running.0.is_none().then(|| kafka_ports(options, before)).transpose()?;
    let clickhouse_ports = running.1.is_none().then(|| clickhouse_ports(options, before)).transpose()?;
    let mut start = |launch: Launch| -> Result<ProcessId> {
        let server = Started::new(launch)?;
        let process = server.process;
        started.push(server);
        Ok(process)
    };
    let kafka = match (running.0, kafka_ports) {
        (Some(state), _) => Some(state.clone()),
        (None, Some(ports)) => {
            let process = start(kafka_launch(dir, options, &ports)?)?;
            Some(KafkaState { process, port: ports.broker.port() })
        }
        (None, None) => None,
    };
    let clickhouse = match (running.1, clickhouse_ports) {
        (Some(state), _) => Some(state.clone()),
        (None, Some(ports)) => {
            let process = start(clickhouse_launch(dir, options, &ports)?)?;
            let (http_port, native_port) = (ports.http.port(), ports.native.port());
            Some(ClickHouseState { process, http_port, native_port })
        }
        (None, None) => None,
    };
    if let (Some(kafka), Some(clickhouse)) = (kafka, clickhouse) {
        State::new(kafka, clickhouse).write(dir)?;
    }
    thread::scope(|scope| {
        let waits: Vec<_> = started.iter().map(|server| scope.spawn(|| server.wait_ready())).collect();
        waits
            .into_iter()
            .try_for_each(|wait| wait.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn kafka_ports(options: &DevOptions, before: Option<&State>) -> Result<KafkaPorts> {
    // Nobody but the broker itself talks to the controller, so its port may be any.
    let controller = PortLease::free(&workdir::port_locks())?;
    if options.free_ports && before.is_none() {
        return KafkaPorts::free(&[]);
    }
    let port = before.map_or(options.kafka_port, |state| state.kafka.port);
    Ok(KafkaPorts { broker: PortLease::fixed(port, "Kafka")?, controller, listeners: Vec::new() })
}

fn clickhouse_ports(options: &DevOptions, before: Option<&State>) -> Result<ClickHousePorts> {
    if options.free_ports && before.is_none() {
        return ClickHousePorts::free();
    }
    let (http, native) = before.map_or((options.http_port, options.native_port), |state| {
        (state.clickhouse.http_port, state.clickhouse.native_port)
    });
    Ok(ClickHousePorts {
        http: PortLease::fixed(http, "ClickHouse HTTP")?,
        native: PortLease::fixed(native, "ClickHouse native protocol")?,
    })
}

fn kafka_launch(dir: &Path, options: &DevOptions, ports: &KafkaPorts) -> Result<Launch> {
    let dist = KafkaDist::fetch(&cache::cache_dir(), &options.progress)?;
    let dir = dir.join(KAFKA_DIR);
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    let options =
        KafkaOptions { heap_mib: options.kafka_heap_mib, jvm: Jvm::Throughput, ..KafkaOptions::default() };
    kafka::launch(&dist, &dir, ports, &options)
}

fn clickhouse_launch(dir: &Path, options: &DevOptions, ports: &ClickHousePorts) -> Result<Launch> {
    let library = dist::clickhouse::fetch(&cache::cache_dir(), &options.progress)?;
    let dir = dir.join(CLICKHOUSE_DIR);
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    let options = ClickHouseOptions {
        memory_bytes_max: options.clickhouse_memory_bytes_max,
        host: options.host.clone(),
        progress: options.progress.clone(),
        ..ClickHouseOptions::default()
    };
    clickhouse::launch(&library, &clickhouse::host(&options)?, &dir, ports, &options)
}

/// Both servers as they are now. `dir` as in [`DevOptions`].
///
/// # Errors
/// If the state file cannot be read.
pub fn status(dir: Option<PathBuf>) -> Result<Status> {
    status_in(dir.unwrap_or_else(default_dir))
}

fn status_in(dir: PathBuf) -> Result<Status> {
    let state = State::read(&dir)?;
    let state = state.as_ref();
    let health = |process: ProcessId, ready: &dyn Fn() -> bool| match state {
        Some(state) if !state.is_alive(process) => Health::Died,
        _ if process.is_stopped() || !ready() => Health::NotReady,
        _ => Health::Ready,
    };
    let kafka = state.map(|state| &state.kafka).map(|server| {
        let address = format!("127.0.0.1:{}", server.port);
        (server.process, health(server.process, &|| probe::kafka(&address).is_ok()), address)
    });
    let clickhouse = state.map(|state| &state.clickhouse).map(|server| {
        let url = format!("http://127.0.0.1:{}", server.http_port);
        (server.process, health(server.process, &|| probe::clickhouse(&url).is_ok()), url)
    });
    Ok(Status {
        kafka: server_status(kafka, None, dir.join(KAFKA_DIR).join("kafka.log")),
        clickhouse: server_status(
            clickhouse,
            state.map(|state| state.clickhouse.native_port),
            dir.join(CLICKHOUSE_DIR).join("clickhouse.log"),
        ),
        dir,
    })
}

fn server_status(
    server: Option<(ProcessId, Health, String)>,
    native_port: Option<u16>,
    log: PathBuf,
) -> ServerStatus {
    let Some((process, health, address)) = server else {
        return ServerStatus { health: Health::Down, pid: None, address: None, native_port: None, log };
    };
    let pid = (health != Health::Died).then_some(process.pid);
    ServerStatus { health, pid, address: Some(address), native_port, log }
}

/// Stops both servers in order (SIGTERM, and SIGKILL after 20 s) and removes the state file; data and logs stay
/// unless asked otherwise. It is no error if nothing runs.
///
/// # Errors
/// If a server cannot be ended, or files cannot be removed.
pub fn down(options: &DownOptions) -> Result<Down> {
    let dir = absolute(options.dir.clone())?;
    let _lock = cache::lock(&dir.join("lock"))?;
    let state = State::read(&dir)?;
    let stop = |name: &'static str, process: ProcessId| match &state {
        Some(state) if state.is_alive(process) => {
            options.progress.say(format!("stopping {name} (pid {})", process.pid));
            stop(name, process)
        }
        _ => Ok(Stopped::WasNotRunning),
    };
    let (kafka, clickhouse) = match &state {
        Some(state) => (stop("Kafka", state.kafka.process)?, stop("ClickHouse", state.clickhouse.process)?),
        None => (Stopped::WasNotRunning, Stopped::WasNotRunning),
    };
    State::remove(&dir)?;
    if options.remove_data {
        for name in [KAFKA_DIR, CLICKHOUSE_DIR] {
            let data = dir.join(name);
            if data.exists() {
                fs::remove_dir_all(&data).map_err(Error::io("remove", &data))?;
            }
        }
    }
    Ok(Down { dir, kafka, clickhouse, data_removed: options.remove_data })
}

fn stop(server: &'static str, process: ProcessId) -> Result<Stopped> {
    if server::terminate(process, STOP_LIMIT) {
        return Ok(Stopped::InOrder);
    }
    process.signal(Signal::SIGKILL);
    if wait_until(KILL_LIMIT, || !process.is_alive()) {
        return Ok(Stopped::Killed);
    }
    Err(Error::Signal { server, pid: process.pid, operation: "end", waited_s: KILL_LIMIT.as_secs() })
}

/// The directory, made if it is missing: a server's working directory is elsewhere.
fn absolute(dir: Option<PathBuf>) -> Result<PathBuf> {
    let dir = dir.unwrap_or_else(default_dir);
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    dir.canonicalize().map_err(Error::io("find", &dir))
}
