//! A real ClickHouse: one server on 127.0.0.1, HTTP and native protocol, user `default` without a password.
//! Never a cluster, never TLS.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dist;
use crate::error::{Error, Result};
use crate::host_command::HostCommand;
use crate::managed::{Managed, Ports};
use crate::ports::PortLease;
use crate::probe;
use crate::progress::Progress;
use crate::server::Launch;
use crate::workdir;
use crate::{CLICKHOUSE_ENV, cache};

const NAME: &str = "ClickHouse";

/// How to start a ClickHouse.
#[derive(Debug, Clone)]
pub struct ClickHouseOptions {
    /// Directory for data, configuration and logs, kept afterwards. None: a temporary one, removed on drop.
    pub dir: Option<PathBuf>,
    /// Limit of the server's memory, in bytes: queries above it fail.
    pub memory_bytes_max: u64,
    /// Server settings as XML elements, put at the end of the configuration. Users go here too (`<users>`, with
    /// `default` among them): embedded ClickHouse has nowhere to keep what CREATE USER makes.
    pub config_xml: String,
    /// The program which hosts ClickHouse. None: [`HostCommand::find`].
    pub host: Option<HostCommand>,
    /// Receives what is being done.
    pub progress: Progress,
}

impl Default for ClickHouseOptions {
    fn default() -> Self {
        Self {
            dir: None,
            memory_bytes_max: 2 << 30,
            config_xml: String::new(),
            host: None,
            progress: Progress::default(),
        }
    }
}

/// The two ports of a server.
#[derive(Debug)]
pub struct ClickHousePorts {
    pub(crate) http: PortLease,
    pub(crate) native: PortLease,
}

impl ClickHousePorts {
    pub(crate) fn free() -> Result<Self> {
        let locks = workdir::port_locks();
        Ok(Self { http: PortLease::free(&locks)?, native: PortLease::free(&locks)? })
    }
}

impl Ports for ClickHousePorts {
    const NAME: &'static str = NAME;
    const ENV: &'static str = CLICKHOUSE_ENV;

    fn probe(address: &str) -> Result<(), String> {
        probe::clickhouse(address.trim_end_matches('/'))
    }
}

/// A ClickHouse of our own, or the one of the user's that [`CLICKHOUSE_ENV`] names.
pub type ClickHouse = Managed<ClickHousePorts>;

impl ClickHouse {
    /// Starts a ClickHouse on free ports and waits until it is ready; or takes the one named by [`CLICKHOUSE_ENV`].
    ///
    /// # Errors
    /// If it cannot be fetched, started, or does not get ready; the text has the end of its log.
    pub fn start(options: &ClickHouseOptions) -> Result<Self> {
        if let Some(clickhouse) = Self::of_the_user()? {
            return Ok(clickhouse);
        }
        let library = dist::clickhouse::fetch(&cache::cache_dir(), &options.progress)?;
        let host = host(options)?;
        let launch = |dir: &Path, ports: &ClickHousePorts| launch(&library, &host, dir, ports, options);
        Self::start_own(options.dir.as_deref(), &options.progress, ClickHousePorts::free, launch)
    }

    /// A ClickHouse of the user's, at `http://[user:password@]host:port`. It must answer; it is never signalled.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn external(url: impl Into<String>) -> Result<Self> {
        Self::at(url.into())
    }

    /// `http://host:port`, without a slash at its end.
    #[must_use]
    pub fn http_url(&self) -> String {
        match self.place() {
            Ok(ports) => format!("http://127.0.0.1:{}", ports.http.port()),
            Err(url) => url.trim_end_matches('/').to_owned(),
        }
    }

    /// Port of the native protocol on 127.0.0.1; none if it is the user's.
    #[must_use]
    pub fn native_port(&self) -> Option<u16> {
        self.place().ok().map(|ports| ports.native.port())
    }

    /// Runs one statement over HTTP and gives the answer's body (at most 4 MiB, TabSeparated unless the statement
    /// says otherwise). For tests and diagnostics.
    ///
    /// # Errors
    /// The status and the server's message.
    pub fn query(&self, sql: &str) -> Result<String, String> {
        probe::query(&self.http_url(), sql)
    }
}

/// The host program of the options, or the one that is found.
pub(crate) fn host(options: &ClickHouseOptions) -> Result<HostCommand> {
    options.host.clone().map_or_else(|| HostCommand::find(&options.progress), Ok)
}

/// Writes configuration into `dir` (data of an earlier run stays) and says how to start.
pub(crate) fn launch(
    library: &Path,
    host: &HostCommand,
    dir: &Path,
    ports: &ClickHousePorts,
    options: &ClickHouseOptions,
) -> Result<Launch> {
    let config = dir.join("config.xml");
    let log = dir.join("clickhouse.log");
    fs::write(&config, config_xml(dir, &log, ports, options)).map_err(Error::io("write", &config))?;
    let mut args = host.args.clone();
    args.extend([library.into(), config.into()]);
    let url = format!("http://127.0.0.1:{}", ports.http.port());
    Ok(Launch {
        name: NAME,
        program: host.program.clone(),
        args,
        dir: dir.to_path_buf(),
        output: dir.join("clickhouse.out"),
        log,
        port: ports.http.port(),
        probe: Box::new(move || probe::clickhouse(&url)),
    })
}

/// Embedded ClickHouse runs with the smallest pools and without system logs; these are a server's defaults where
/// behaviour depends on them (merges, the Kafka engine), and small caches where only memory does. The level of the
/// log is `log-level` here: `logger.level` is overwritten with `trace`, which costs CPU on every insert.
fn config_xml(dir: &Path, log: &Path, ports: &ClickHousePorts, options: &ClickHouseOptions) -> String {
    let data = dir.join("data");
    let (data, log) = (data.display(), log.display());
    let (http, native) = (ports.http.port(), ports.native.port());
    let ClickHouseOptions { memory_bytes_max, config_xml, .. } = options;
    format!(
        "<clickhouse>
  <path>{data}/</path>
  <tmp_path>{data}/tmp/</tmp_path>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{http}</http_port>
  <tcp_port>{native}</tcp_port>
  <logger><log>{log}</log><size>16M</size><count>2</count></logger>
  <log-level>information</log-level>
  <max_server_memory_usage>{memory_bytes_max}</max_server_memory_usage>
  <memory_worker_period_ms>1000</memory_worker_period_ms>
  <mark_cache_size>67108864</mark_cache_size>
  <primary_index_cache_size>67108864</primary_index_cache_size>
  <background_pool_size>16</background_pool_size>
  <background_common_pool_size>8</background_common_pool_size>
  <background_schedule_pool_size>16</background_schedule_pool_size>
  <background_message_broker_schedule_pool_size>16</background_message_broker_schedule_pool_size>
  <query_log><database>system</database><table>query_log</table></query_log>
  <part_log><database>system</database><table>part_log</table></part_log>
{config_xml}
</clickhouse>
"
    )
}
