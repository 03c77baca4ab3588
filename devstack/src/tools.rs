//! The programs of other people which the devstack runs: java, mvn, npm. Finds them, runs them, and says which
//! package has a missing one. Never installs anything.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// A program of somebody else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) purpose: &'static str,
}

pub(crate) const JAVA: Tool =
    Tool { name: "java", package: "openjdk-17-jre-headless", purpose: "run Kafka (Java 17 or newer)" };
pub(crate) const MVN: Tool = Tool { name: "mvn", package: "maven", purpose: "fetch Kafka's jars, once" };
pub(crate) const NPM: Tool = Tool { name: "npm", package: "npm", purpose: "fetch ClickHouse, once" };

impl Tool {
    /// Full path of the program, from the `PATH` of this process.
    pub(crate) fn find(self) -> Result<PathBuf> {
        self.find_in(&env::var_os("PATH").unwrap_or_default())
    }

    fn find_in(self, path: &OsStr) -> Result<PathBuf> {
        let executable = |file: &PathBuf| {
            file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        env::split_paths(path).map(|dir| dir.join(self.name)).find(executable).ok_or(Error::MissingTool {
            tool: self.name,
            purpose: self.purpose,
            package: self.package,
        })
    }
}

/// Runs a program to its end and returns what it prints; if it fails its output is in the error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    let failed = |status: String, output: String| {
        // A class path of 94 jars says nothing.
        let command = line.chars().take(300).collect();
        Error::ToolFailed { command, status, output }
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed("could not be run".into(), e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Err(failed(output.status.to_string(), lines[lines.len().saturating_sub(30)..].join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_the_debian_package() {
        let empty = tempfile::tempdir().unwrap();
        let error = MVN.find_in(empty.path().as_os_str()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`mvn` was not found on the PATH; it is needed to fetch Kafka's jars, once. \
             Install it, on Debian: apt-get install maven"
        );
    }

    #[test]
    fn a_file_which_is_not_executable_is_not_a_tool() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("java"), "").unwrap();
        assert!(JAVA.find_in(dir.path().as_os_str()).is_err());
    }

    #[test]
    fn a_failing_command_shows_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo why; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("why"), "{text}");
    }
}
