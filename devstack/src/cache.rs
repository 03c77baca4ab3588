//! The cache of fetched servers: an artifact is made once, under a file lock, in a temporary directory which is
//! renamed into place when it is complete. Never removes what another version of the devstack has fetched.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where fetched servers are kept: `$PENSTOCK_CACHE`, `$XDG_CACHE_HOME/penstock` or `~/.cache/penstock`.
pub fn cache_dir() -> PathBuf {
    cache_dir_from(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn cache_dir_from(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    var("PENSTOCK_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("penstock")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/penstock")))
        .unwrap_or_else(|| env::temp_dir().join("penstock-cache"))
}

/// The directory `name` of the cache `root`. If it is missing, `make` fills a new directory, which takes the name
/// only when `make` succeeded. Concurrent callers (threads and processes) wait for the one which makes it.
pub(crate) fn artifact(root: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let wanted = root.join(name);
    if wanted.is_dir() {
        return Ok(wanted);
    }
    fs::create_dir_all(root).map_err(Error::io("create", root))?;
    let _lock = lock(&root.join(format!("{name}.lock")))?;
    if wanted.is_dir() {
        return Ok(wanted);
    }
    let partial = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .tempdir_in(root)
        .map_err(Error::io("create a directory in", root))?;
    make(partial.path())?;
    fs::rename(partial.path(), &wanted).map_err(Error::io("rename a directory to", &wanted))?;
    Ok(wanted)
}

/// Waits for the exclusive lock on `path`; held until the file is dropped, or its process ends.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Error::io("open", path))?;
    file.lock().map_err(Error::io("lock", path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn the_cache_follows_its_variables_in_order() {
        let only = |wanted: &'static str| move |name: &str| (name == wanted).then(|| PathBuf::from("/x"));
        assert_eq!(cache_dir_from(|_| Some("/x".into())), Path::new("/x"));
        assert_eq!(cache_dir_from(only("XDG_CACHE_HOME")), Path::new("/x/penstock"));
        assert_eq!(cache_dir_from(only("HOME")), Path::new("/x/.cache/penstock"));
    }

    #[test]
    fn concurrent_callers_make_an_artifact_once() {
        let root = tempfile::tempdir().unwrap();
        let made = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let dir = artifact(root.path(), "a", |dir| {
                        made.fetch_add(1, Ordering::Relaxed);
                        fs::write(dir.join("file"), "x").map_err(Error::io("write", dir))
                    });
                    assert!(dir.unwrap().join("file").exists());
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_artifact_which_failed_leaves_nothing_and_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let fail = |dir: &Path| {
            fs::write(dir.join("half"), "x").map_err(Error::io("write", dir))?;
            Err(Error::NoFreePort { range: String::new() })
        };
        artifact(root.path(), "a", fail).unwrap_err();
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["a.lock"]);
        artifact(root.path(), "a", |_| Ok(())).unwrap();
    }
}
