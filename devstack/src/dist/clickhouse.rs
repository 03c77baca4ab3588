//! ClickHouse as a shared library, from the npm package of chDB, pinned by `clickhouse/package.sha256`. Never loads it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;

use crate::cache;
use crate::checksum::Pins;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::tools::{self, NPM};

const PACKAGE: &str = "@chdb/lib-linux-x64-gnu@26.7.3-stable.1";
const PIN: &str = include_str!("../../clickhouse/package.sha256");
/// A part of the cache's directory name, so a new version is fetched beside the old one.
const VERSION: &str = "26.7.3-stable.1";
const LIBRARY: &str = "libchdb.so";
const REMEDY: &str = "Nothing was kept. Run again; if it stays so, the registry which npm uses serves another package: \
    only if it is right renew devstack/clickhouse/package.sha256";

/// Path of the ClickHouse library in the cache, fetched with `npm` if it is not there.
pub(crate) fn fetch(cache: &Path, progress: &Progress) -> Result<PathBuf> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))) {
        return Err(Error::Platform {
            what: "the ClickHouse of the devstack",
            needed: "Linux x86-64 with glibc",
            variable: crate::CLICKHOUSE_ENV,
        });
    }
    let dir = cache::artifact(cache, &format!("clickhouse-{VERSION}"), |dir| make(dir, progress))?;
    Ok(dir.join(LIBRARY))
}

fn make(dir: &Path, progress: &Progress) -> Result<()> {
    let npm = NPM.find()?;
    let download = dir.join("download");
    fs::create_dir(&download).map_err(Error::io("create", &download))?;
    progress.say(format!("fetching ClickHouse {VERSION} (178 MB, once) with npm"));
    tools::run(Command::new(npm).args(["pack", "--silent", PACKAGE]).current_dir(&download))?;
    let pin = Pins::parse(PIN);
    pin.check_dir(&download, REMEDY)?;
    progress.say("unpacking ClickHouse (566 MB)");
    for name in pin.names() {
        unpack(&download.join(name), dir)?;
    }
    fs::remove_dir_all(&download).map_err(Error::io("remove", &download))?;
    progress.say(format!("ClickHouse {VERSION} is in the cache"));
    Ok(())
}

/// Takes the library out of the package; the rest of the package is for Node.js.
fn unpack(package: &Path, dir: &Path) -> Result<()> {
    let file = File::open(package).map_err(Error::io("open", package))?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    for entry in archive.entries().map_err(Error::io("read", package))? {
        let mut entry = entry.map_err(Error::io("read", package))?;
        let is_library = entry.path().is_ok_and(|path| path.ends_with(LIBRARY));
        if is_library {
            let to = dir.join(LIBRARY);
            entry.unpack(&to).map_err(Error::io("unpack", &to))?;
            return Ok(());
        }
    }
    Err(Error::Config {
        what: "the ClickHouse package",
        value: package.display().to_string(),
        why: format!("it has no {LIBRARY}"),
    })
}
