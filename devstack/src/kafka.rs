//! A real Kafka: one KRaft node, broker and controller, on 127.0.0.1. Never a cluster, never TLS.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dist::kafka::KafkaDist;
use crate::error::{Error, Result};
use crate::managed::{Managed, Ports};
use crate::ports::PortLease;
use crate::probe;
use crate::progress::Progress;
use crate::server::Launch;
use crate::tools::{self, JAVA};
use crate::workdir::{self, WorkDir};
use crate::{KAFKA_ENV, cache};

const NAME: &str = "Kafka";
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";

/// What the Java virtual machine is tuned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jvm {
    /// A quick start and little CPU: the simple compiler only. For tests.
    #[default]
    QuickStart,
    /// Java's defaults: costs more to warm up and then less per record. For measuring.
    Throughput,
}

/// How to start a Kafka.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Directory for data, configuration and logs, kept afterwards. None: a temporary one, removed on drop.
    pub dir: Option<PathBuf>,
    /// Java heap, in MiB.
    pub heap_mib: u32,
    /// What the Java virtual machine is tuned for.
    pub jvm: Jvm,
    /// Broker properties that win over the devstack's.
    pub properties: Vec<(String, String)>,
    /// Listeners beside the one of [`Kafka::brokers`].
    pub listeners: Vec<KafkaListener>,
    /// Receives what is being done.
    pub progress: Progress,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            dir: None,
            heap_mib: 512,
            jvm: Jvm::default(),
            properties: Vec::new(),
            listeners: Vec::new(),
            progress: Progress::default(),
        }
    }
}

/// A listener for clients that come by way of something else, a proxy for example. Clients go where they are told to
/// go: what a listener advertises decides through what they come, after the first connection, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaListener {
    /// Capital letters and digits; not `PLAINTEXT` or `CONTROLLER`.
    pub name: String,
    /// The port on 127.0.0.1 that clients are told to connect to.
    pub advertised_port: u16,
}

/// The ports of a node.
#[derive(Debug)]
pub struct KafkaPorts {
    pub(crate) broker: PortLease,
    pub(crate) controller: PortLease,
    /// Listeners of [`KafkaOptions::listeners`], and where they listen themselves.
    pub(crate) listeners: Vec<(KafkaListener, PortLease)>,
}

impl KafkaPorts {
    pub(crate) fn free(listeners: &[KafkaListener]) -> Result<Self> {
        let locks = workdir::port_locks();
        let free = || PortLease::free(&locks);
        let listeners =
            listeners.iter().map(|listener| Ok((listener.clone(), free()?))).collect::<Result<_>>()?;
        Ok(Self { broker: free()?, controller: free()?, listeners })
    }
}

impl Ports for KafkaPorts {
    const NAME: &'static str = NAME;
    const ENV: &'static str = KAFKA_ENV;

    fn probe(address: &str) -> Result<(), String> {
        probe::kafka(address)
    }
}

/// A Kafka of our own, or the one of the user's that [`KAFKA_ENV`] names.
pub type Kafka = Managed<KafkaPorts>;

impl Kafka {
    /// Starts a Kafka on free ports and waits until it is ready; or takes the one named by [`KAFKA_ENV`].
    ///
    /// # Errors
    /// If it cannot be fetched, started, or does not get ready; the text has the end of its log.
    pub fn start(options: &KafkaOptions) -> Result<Self> {
        if let Some(kafka) = Self::of_the_user()? {
            return Ok(kafka);
        }
        let dist = KafkaDist::fetch(&cache::cache_dir(), &options.progress)?;
        let free = || KafkaPorts::free(&options.listeners);
        let launch = |dir: &Path, ports: &KafkaPorts| launch(&dist, dir, ports, options);
        Self::start_own(options.dir.as_deref(), &options.progress, free, launch)
    }

    /// A Kafka of the user's, at `host:port[,host:port...]`. It must answer; it is never signalled.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn external(brokers: impl Into<String>) -> Result<Self> {
        Self::at(brokers.into())
    }

    /// `host:port` for `bootstrap.servers`.
    #[must_use]
    pub fn brokers(&self) -> String {
        match self.place() {
            Ok(ports) => format!("127.0.0.1:{}", ports.broker.port()),
            Err(brokers) => brokers.to_owned(),
        }
    }

    /// `host:port` on which the listener of [`KafkaOptions::listeners`] with this name listens itself; none if there is
    /// none, or if it is the user's Kafka.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<String> {
        let mut listeners = self.place().ok()?.listeners.iter();
        listeners.find_map(|(listener, lease)| {
            (listener.name == name).then(|| format!("127.0.0.1:{}", lease.port()))
        })
    }

    /// Aborts transactions of this topic's partitions that nobody will ever end, with Kafka's own tool; returns how many.
    ///
    /// Kafka leaves some behind: a broker that restarts while a transaction is being completed takes partitions without
    /// a leader for deleted ones, and writes no marker into them (seen in 4.3.1: "Couldn't find leader endpoint for
    /// partitions ... these partitions are likely deleted already and hence can be skipped"). Call it only when no
    /// transaction can be open for good reason.
    ///
    /// # Errors
    /// If Java or Kafka's tools are not there, or the tool fails.
    pub fn abort_hanging(&self, topic: &str, partitions: impl IntoIterator<Item = i32>) -> Result<usize> {
        let dist = KafkaDist::fetch(&cache::cache_dir(), &crate::Progress::default())?;
        let mut aborted = 0;
        for partition in partitions {
            let partition = partition.to_string();
            let at = ["--topic", topic, "--partition", &partition];
            let tool = |command, more: &[&str]| {
                let args = [&[command], &at[..], more].concat();
                self.tool(&dist, TRANSACTIONS, &args)
            };
            let described = tool("describe-producers", &[])?;
            // The last column: where its open transaction begins.
            let starts = described.lines().filter_map(|line| line.split_whitespace().last());
            for start in starts.filter(|start| start.parse::<u64>().is_ok()) {
                // One that has ended by itself meanwhile cannot be aborted.
                aborted += usize::from(tool("abort", &["--start-offset", start]).is_ok());
            }
        }
        Ok(aborted)
    }

    /// The state of a transactional id as its coordinator has it: `Ongoing`, `CompleteCommit` and so on.
    ///
    /// # Errors
    /// If Java or Kafka's tools are not there, or the tool fails.
    pub fn transaction_state(&self, transactional_id: &str) -> Result<String> {
        const COLUMN: &str = "TransactionState";
        let dist = KafkaDist::fetch(&cache::cache_dir(), &crate::Progress::default())?;
        let args = ["describe", "--transactional-id", transactional_id];
        let table = self.tool(&dist, TRANSACTIONS, &args)?;
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let column = rows.next().and_then(|names| names.iter().position(|name| *name == COLUMN));
        let state = column.zip(rows.next()).and_then(|(column, row)| row.get(column).copied());
        state.map(str::to_owned).ok_or_else(|| Error::ToolFailed {
            command: TRANSACTIONS.to_owned(),
            status: format!("no {COLUMN} of {transactional_id}"),
            output: table.clone(),
        })
    }

    /// Deletes the records of a topic's partitions below these offsets, as retention would.
    ///
    /// # Errors
    /// If Java or Kafka's tools are not there, or the tool fails.
    pub fn delete_records(&self, topic: &str, below: impl IntoIterator<Item = (i32, i64)>) -> Result<()> {
        let dist = KafkaDist::fetch(&cache::cache_dir(), &crate::Progress::default())?;
        let partitions: Vec<_> = below
            .into_iter()
            .map(|(partition, offset)| {
                serde_json::json!({"topic": topic, "partition": partition, "offset": offset})
            })
            .collect();
        let dir = WorkDir::temporary()?;
        let file = dir.path().join("offsets.json");
        write(&file, &serde_json::json!({"partitions": partitions, "version": 1}).to_string())?;
        let args = ["--offset-json-file", &file.to_string_lossy()];
        self.tool(&dist, "org.apache.kafka.tools.DeleteRecordsCommand", &args).map(drop)
    }

    /// What one of Kafka's own tools prints.
    fn tool(&self, dist: &KafkaDist, class: &str, args: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(JAVA.find()?);
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &dist.class_path(), class]);
        tools::run(command.args(["--bootstrap-server", &self.brokers()]).args(args))
    }
}

/// Writes configuration into `dir` (data of an earlier run stays) and says how to start.
pub(crate) fn launch(
    dist: &KafkaDist,
    dir: &Path,
    ports: &KafkaPorts,
    options: &KafkaOptions,
) -> Result<Launch> {
    let data = dir.join("data");
    if !data.join("meta.properties").exists() {
        dist.copy_formatted(&data)?;
    }
    let (properties_file, log4j_file) = (dir.join("server.properties"), dir.join("log4j2.xml"));
    let broker = ports.broker.port();
    write(&properties_file, &properties(ports, &data, options))?;
    let log = dir.join("kafka.log");
    write(&log4j_file, &log4j(&log))?;
    let mut args = vec![format!("-Xmx{}m", options.heap_mib), "-Xms64m".to_owned()];
    if options.jvm == Jvm::QuickStart {
        args.extend(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"].map(String::from));
    }
    args.extend([
        "-Djava.awt.headless=true".to_owned(),
        format!("-Dlog4j2.configurationFile={}", log4j_file.display()),
        "-cp".to_owned(),
        dist.class_path(),
        "kafka.Kafka".to_owned(),
        properties_file.display().to_string(),
    ]);
    let brokers = format!("127.0.0.1:{broker}");
    Ok(Launch {
        name: NAME,
        program: JAVA.find()?,
        args: args.into_iter().map(Into::into).collect(),
        dir: dir.to_path_buf(),
        output: dir.join("kafka.out"),
        log,
        port: broker,
        probe: Box::new(move || probe::kafka(&brokers)),
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path))
}

/// `server.properties`: the last of two lines with one key wins, so the user's come last.
fn properties(ports: &KafkaPorts, data: &Path, options: &KafkaOptions) -> String {
    let (broker, controller) = (ports.broker.port(), ports.controller.port());
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}");
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{broker}");
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for (KafkaListener { name, advertised_port }, lease) in &ports.listeners {
        listeners += &format!(",{name}://127.0.0.1:{}", lease.port());
        advertised += &format!(",{name}://127.0.0.1:{advertised_port}");
        protocols += &format!(",{name}:PLAINTEXT");
    }
    let ours = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
        ("listeners", listeners),
        ("advertised.listeners", advertised),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
        ("listener.security.protocol.map", protocols),
        ("log.dirs", data.display().to_string()),
    ];
    let tuned = TUNING.iter().map(|(key, value)| (*key, (*value).to_owned()));
    let more = options.properties.iter().map(|(key, value)| (key.as_str(), value.clone()));
    ours.into_iter().chain(tuned).chain(more).map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// Small, and quick to start. Replication is 1 because there is one node.
const TUNING: &[(&str, &str)] = &[
    ("auto.create.topics.enable", "false"),
    ("num.partitions", "1"),
    ("offsets.topic.num.partitions", "4"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("share.coordinator.state.topic.num.partitions", "4"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    // Writers' sessions may be as short as tests want them.
    ("group.min.session.timeout.ms", "1000"),
    // After kill -9 a broker may only register again when the session of its former self has run out.
    ("broker.session.timeout.ms", "4000"),
    ("broker.heartbeat.interval.ms", "500"),
    ("metadata.max.idle.interval.ms", "5000"),
    // The default (128 MB) is a quarter of our heap.
    ("log.cleaner.dedupe.buffer.size", "8388608"),
    ("log.segment.delete.delay.ms", "1000"),
];

fn log4j(log: &Path) -> String {
    let log = log.display();
    format!(
        r#"<Configuration status="warn">
  <Appenders>
    <RollingFile name="F" fileName="{log}" filePattern="{log}.%i">
      <PatternLayout pattern="%d{{ISO8601}} %p %m (%c)%n"/>
      <Policies><SizeBasedTriggeringPolicy size="16 MB"/></Policies>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Logger name="org.apache.kafka.common.config.AbstractConfig" level="warn"/>
    <Root level="info"><AppenderRef ref="F"/></Root>
  </Loggers>
</Configuration>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(options: &KafkaOptions) -> (KafkaPorts, String) {
        let ports = KafkaPorts::free(&options.listeners).unwrap();
        let text = properties(&ports, Path::new("/data"), options);
        (ports, text)
    }

    #[test]
    fn the_users_properties_come_last_and_so_win() {
        let more = vec![("num.partitions".to_owned(), "7".to_owned())];
        let (ports, text) = text(&KafkaOptions { properties: more, ..KafkaOptions::default() });
        assert!(text.ends_with("num.partitions=7\n"), "{text}");
        let controller = ports.controller.port();
        assert!(text.contains(&format!("controller.quorum.voters=1@127.0.0.1:{controller}\n")));
    }

    #[test]
    fn a_listener_listens_on_a_port_of_its_own_and_advertises_the_one_it_was_given() {
        let listener = KafkaListener { name: "GATEWAY".to_owned(), advertised_port: 7 };
        let (ports, text) = text(&KafkaOptions { listeners: vec![listener], ..KafkaOptions::default() });
        let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        assert!(
            line("listeners=").ends_with(&format!(",GATEWAY://127.0.0.1:{}", ports.listeners[0].1.port()))
        );
        assert!(line("advertised.listeners=").ends_with(",GATEWAY://127.0.0.1:7"));
        assert!(line("listener.security.protocol.map=").ends_with(",GATEWAY:PLAINTEXT"));
    }
}
