//! Kafka's jars from Maven, pinned by `kafka/pom.xml` and `kafka/jars.sha256`, and a formatted, empty KRaft
//! directory to copy from (formatting takes a JVM start, a copy takes nothing). Never starts a broker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;
use crate::checksum::Pins;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::tools::{self, JAVA, MVN};

const POM: &str = include_str!("../../kafka/pom.xml");
const JARS: &str = include_str!("../../kafka/jars.sha256");
/// Version of Kafka; a part of the cache's directory name, so a new one is fetched beside the old one.
const VERSION: &str = "4.3.1";
const REMEDY: &str = "Nothing was kept. Run again; if it stays so, the repository which Maven uses serves other files: \
    look at them with `mvn dependency:tree`, and only if they are right renew devstack/kafka/jars.sha256";

/// Kafka in the cache.
#[derive(Debug, Clone)]
pub(crate) struct KafkaDist {
    dir: PathBuf,
}

impl KafkaDist {
    /// Kafka from the cache, fetched with `mvn` if it is not there.
    pub(crate) fn fetch(cache: &Path, progress: &Progress) -> Result<Self> {
        let name = format!("kafka-{VERSION}");
        let dir = cache::artifact(cache, &name, |dir| make(dir, progress))?;
        Ok(Self { dir })
    }

    /// The class path: every jar by name, in a fixed order.
    pub(crate) fn class_path(&self) -> String {
        class_path(&self.dir)
    }

    /// Copies the empty, formatted KRaft directory (node 1) to `to`.
    pub(crate) fn copy_formatted(&self, to: &Path) -> Result<()> {
        let from = self.dir.join("formatted");
        fs::create_dir_all(to).map_err(Error::io("create", to))?;
        for entry in fs::read_dir(&from).map_err(Error::io("read", &from))? {
            let entry = entry.map_err(Error::io("read", &from))?;
            fs::copy(entry.path(), to.join(entry.file_name())).map_err(Error::io("write to", to))?;
        }
        Ok(())
    }
}

fn class_path(dir: &Path) -> String {
    let jars = dir.join("jars");
    let paths: Vec<_> =
        Pins::parse(JARS).names().map(|name| jars.join(name).to_string_lossy().into_owned()).collect();
    paths.join(":")
}

fn make(dir: &Path, progress: &Progress) -> Result<()> {
    let (java, mvn) = (JAVA.find()?, MVN.find()?);
    let pom = dir.join("pom.xml");
    fs::write(&pom, POM).map_err(Error::io("write", &pom))?;
    let jars = dir.join("jars");
    progress.say(format!("fetching Kafka {VERSION} (55 MB, once) with mvn"));
    let mut command = Command::new(mvn);
    command.args(["-B", "-q", "dependency:copy-dependencies", "-f"]).arg(&pom);
    tools::run(command.arg(format!("-DoutputDirectory={}", jars.display())).current_dir(dir))?;
    Pins::parse(JARS).check_dir(&jars, REMEDY)?;
    format_empty(dir, &java)?;
    progress.say(format!("Kafka {VERSION} is in the cache"));
    Ok(())
}

fn format_empty(dir: &Path, java: &Path) -> Result<()> {
    let formatted = dir.join("formatted");
    let properties = dir.join("format.properties");
    // The ports are not stored in what is formatted: the quorum is named in each server's own properties.
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n\
         controller.quorum.voters=1@127.0.0.1:9093\nlog.dirs={}\n",
        formatted.display()
    );
    fs::write(&properties, text).map_err(Error::io("write", &properties))?;
    let mut command = Command::new(java);
    command.args(["-XX:TieredStopAtLevel=1", "-cp", &class_path(dir), "kafka.tools.StorageTool", "format"]);
    tools::run(command.args(["-t", "cGVuc3RvY2stZGV2c3RhYw", "-c"]).arg(&properties).current_dir(dir))
        .map(drop)
}
