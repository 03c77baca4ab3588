//! Directories of stacks. A temporary one is named after the process which owns it, so that what a killed process
//! left behind is removed by the next one. Never removes a directory that was given by the user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::process::ProcessId;

const STACK: &str = "stack-";

/// `penstock-devstack-<user>` in the directory for temporary files: stacks and port locks of this user.
pub(crate) fn base() -> PathBuf {
    let user = fs::metadata("/proc/self").map_or(0, |meta| meta.uid());
    std::env::temp_dir().join(format!("penstock-devstack-{user}"))
}

/// Where locks on ports are kept.
pub(crate) fn port_locks() -> PathBuf {
    base().join("ports")
}

/// A directory for the files of one server.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    /// Removed when dropped.
    temporary: bool,
}

impl WorkDir {
    pub(crate) fn temporary() -> Result<Self> {
        Self::temporary_in(&base())
    }

    fn temporary_in(base: &Path) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(base).map_err(Error::io("create", base))?;
        sweep(base);
        let owner = ProcessId::own().map(ProcessId::to_name).unwrap_or_default();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{STACK}{owner}.{number}"));
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path, temporary: true })
    }

    pub(crate) fn kept(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let path = path.canonicalize().map_err(Error::io("find", path))?;
        Ok(Self { path, temporary: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed now is removed by the next sweep.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes directories whose owner does not run any more.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(STACK)?.split_once('.'))
            .and_then(|(owner, _)| ProcessId::parse(owner));
        if owner.is_some_and(|owner| !owner.is_alive()) {
            // Another process may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_overs_of_ended_processes_are_swept_and_others_are_not() {
        let base = tempfile::tempdir().unwrap();
        let mine = WorkDir::temporary_in(base.path()).unwrap();
        let left_over = base.path().join("stack-999999999-1.0");
        let foreign = base.path().join("ports");
        fs::create_dir_all(&left_over).unwrap();
        fs::create_dir_all(&foreign).unwrap();
        let next = WorkDir::temporary_in(base.path()).unwrap();
        assert!(!left_over.exists() && foreign.exists() && mine.path().exists());
        assert_ne!(mine.path(), next.path());
        let path = mine.path().to_owned();
        drop(mine);
        assert!(!path.exists());
    }

    #[test]
    fn a_given_directory_is_kept() {
        let base = tempfile::tempdir().unwrap();
        let dir = WorkDir::kept(&base.path().join("data")).unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(path.exists());
    }
}
