//! The state file of `dev up`: which processes it started, on which ports. Never starts or signals anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::process::ProcessId;

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    /// Process ids and start times mean nothing after the machine was started again.
    boot_id: String,
    pub(crate) kafka: KafkaState,
    pub(crate) clickhouse: ClickHouseState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KafkaState {
    pub(crate) process: ProcessId,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClickHouseState {
    pub(crate) process: ProcessId,
    pub(crate) http_port: u16,
    pub(crate) native_port: u16,
}

impl State {
    pub(crate) fn new(kafka: KafkaState, clickhouse: ClickHouseState) -> Self {
        Self { version: VERSION, boot_id: boot_id(), kafka, clickhouse }
    }

    /// Whether `process` (one of this state's) still runs.
    pub(crate) fn is_alive(&self, process: ProcessId) -> bool {
        self.boot_id == boot_id() && process.is_alive()
    }

    /// The state left by `dev up` in `dir`, if any.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { doing: "read", path, source }),
        };
        let broken = |why: String| Error::State { path: path.clone(), why };
        let state: Self = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        if state.version != VERSION {
            return Err(broken(format!("it is of version {}, not {VERSION}", state.version)));
        }
        Ok(Some(state))
    }

    /// Written beside and renamed, so that a reader never sees a half.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let (path, new) = (path(dir), dir.join("state.json.new"));
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::State { path: path.clone(), why: error.to_string() })?;
        fs::write(&new, text).map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("write", &path))
    }

    pub(crate) fn remove(dir: &Path) -> Result<()> {
        let path = path(dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("state.json")
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(process: ProcessId) -> State {
        State::new(
            KafkaState { process, port: 9092 },
            ClickHouseState { process, http_port: 8123, native_port: 9000 },
        )
    }

    #[test]
    fn a_state_is_read_back_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
        let written = state(ProcessId::own().unwrap());
        written.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), Some(written));
        State::remove(dir.path()).unwrap();
        State::remove(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_broken_state_names_the_file_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), "{").unwrap();
        let text = State::read(dir.path()).unwrap_err().to_string();
        assert!(text.contains("state.json") && text.contains("remove it"), "{text}");
    }

    #[test]
    fn a_process_of_an_earlier_boot_is_not_alive() {
        let own = ProcessId::own().unwrap();
        let mut state = state(own);
        assert!(state.is_alive(own));
        state.boot_id = "another".to_owned();
        assert!(!state.is_alive(own));
    }
}
