//! Finding the program which hosts ClickHouse. Never runs it, except to ask for its version.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::host::{HOST_VERSION, VERSION_FLAG};
use crate::progress::Progress;

const PROGRAM: &str = "penstock-clickhouse-host";
const VARIABLE: &str = "PENSTOCK_CLICKHOUSE_HOST";

/// A command which ends in [`crate::clickhouse_host_main`]: the devstack adds that function's arguments to `args`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCommand {
    /// The program.
    pub program: PathBuf,
    /// Arguments that come first, for example a hidden subcommand.
    pub args: Vec<OsString>,
}

impl HostCommand {
    /// The program that runs now, with `args` which make it call [`crate::clickhouse_host_main`].
    ///
    /// # Errors
    /// If the path of the program cannot be found out.
    pub fn this_program(args: impl IntoIterator<Item = impl Into<OsString>>) -> io::Result<Self> {
        Ok(Self { program: env::current_exe()?, args: args.into_iter().map(Into::into).collect() })
    }

    /// The host for a program which has no such subcommand, as test binaries: `$PENSTOCK_CLICKHOUSE_HOST`, else
    /// `penstock-clickhouse-host` in the directory of the program that runs now or the one above it (where cargo
    /// puts it), else it is built there by cargo.
    ///
    /// # Errors
    /// [`Error::NoHost`] with what was tried.
    pub fn find(progress: &Progress) -> Result<Self> {
        if let Some(program) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            return Ok(Self { program: program.into(), args: Vec::new() });
        }
        let no_host = |why: String| Error::NoHost { why };
        let exe = env::current_exe().map_err(|error| no_host(error.to_string()))?;
        let places: Vec<PathBuf> = exe.ancestors().skip(1).take(2).map(|dir| dir.join(PROGRAM)).collect();
        if let Some(program) = places.iter().find(|place| is_current(place)) {
            return Ok(Self { program: program.clone(), args: Vec::new() });
        }
        let program = build(&exe, progress).map_err(no_host)?;
        Ok(Self { program, args: Vec::new() })
    }
}

/// Whether it is a host of this version: cargo does not renew it when only another crate's tests are built.
fn is_current(program: &Path) -> bool {
    let output = Command::new(program).arg(VERSION_FLAG).stdin(Stdio::null()).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == HOST_VERSION)
}

/// `<target>/<profile>/deps/test-1234` and `<target>/<profile>/program` both give `<target>/<profile>`.
fn profile_dir(exe: &Path) -> Option<&Path> {
    let dir = exe.parent()?;
    if dir.ends_with("deps") || dir.ends_with("examples") { dir.parent() } else { Some(dir) }
}

fn build(exe: &Path, progress: &Progress) -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    if !manifest.exists() {
        return Err(format!("it is not beside {}, and its source is not here to build it", exe.display()));
    }
    let profile_dir = profile_dir(exe).ok_or("this program has no directory")?;
    let target = profile_dir.parent().ok_or("this program is not in a target directory")?;
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    progress.say(format!("building {PROGRAM} (once)"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--bin", PROGRAM, "--profile", profile, "--manifest-path"])
        .arg(&manifest);
    // From the directory of the source, where the toolchain is pinned.
    command.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    crate::tools::run(&mut command).map_err(|error| error.to_string())?;
    let program = profile_dir.join(PROGRAM);
    if is_current(&program) { Ok(program) } else { Err(format!("cargo did not make {}", program.display())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_and_programs_give_the_same_profile_directory() {
        let dir = Some(Path::new("/target/debug"));
        assert_eq!(profile_dir(Path::new("/target/debug/deps/lifecycle-0a1b")), dir);
        assert_eq!(profile_dir(Path::new("/target/debug/examples/one")), dir);
        assert_eq!(profile_dir(Path::new("/target/debug/penstock")), dir);
    }

    #[test]
    fn a_program_which_is_not_a_host_is_not_current() {
        assert!(!is_current(Path::new("/bin/true")));
        assert!(!is_current(Path::new("/nonexistent")));
    }
}
