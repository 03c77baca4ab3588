//! SHA-256 lists in the format of `sha256sum`, and checking a directory against one. Never fetches.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Pinned contents: file name to SHA-256 in lower-case hexadecimal.
#[derive(Debug, Clone)]
pub(crate) struct Pins(BTreeMap<String, String>);

impl Pins {
    /// Reads the output format of `sha256sum`: one `<hash>  <name>` a line; other lines are left out.
    pub(crate) fn parse(list: &str) -> Self {
        let pair = |line: &str| line.split_once("  ").map(|(hash, name)| (name.to_owned(), hash.to_owned()));
        Self(list.lines().filter_map(pair).collect())
    }

    /// The file names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Checks that `dir` holds every pinned file with the pinned contents, and no other file.
    pub(crate) fn check_dir(&self, dir: &Path, remedy: &str) -> Result<()> {
        for (name, expected) in &self.0 {
            let path = dir.join(name);
            let found = if path.exists() { sha256(&path)? } else { "no such file".to_owned() };
            if found != *expected {
                return Err(mismatch(name, expected, &found, remedy));
            }
        }
        for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
            let entry = entry.map_err(Error::io("read", dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !self.0.contains_key(&name) {
                return Err(mismatch(&name, "no such file", &sha256(&entry.path())?, remedy));
            }
        }
        Ok(())
    }
}

fn mismatch(file: &str, expected: &str, found: &str, remedy: &str) -> Error {
    Error::Checksum {
        file: file.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// SHA-256 of a file's contents, in lower-case hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn dir_with(name: &str, contents: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), contents).unwrap();
        dir
    }

    #[test]
    fn pinned_contents_pass() {
        let dir = dir_with("a.jar", "abc");
        Pins::parse(&format!("{ABC}  a.jar\n")).check_dir(dir.path(), "").unwrap();
    }

    #[test]
    fn other_contents_name_file_expected_found_and_remedy() {
        let dir = dir_with("a.jar", "abd");
        let error =
            Pins::parse(&format!("{ABC}  a.jar\n")).check_dir(dir.path(), "Fetch again.").unwrap_err();
        let text = error.to_string();
        let found = "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9";
        for part in ["a.jar", ABC, found, "Fetch again."] {
            assert!(text.contains(part), "{text} does not contain {part}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Pins::parse(&format!("{ABC}  a.jar\n")).check_dir(dir.path(), "").unwrap_err();
        assert!(error.to_string().contains("found no such file"), "{error}");
    }

    #[test]
    fn a_file_which_is_not_pinned_is_refused() {
        let dir = dir_with("a.jar", "abc");
        fs::write(dir.path().join("extra.jar"), "x").unwrap();
        let error = Pins::parse(&format!("{ABC}  a.jar\n")).check_dir(dir.path(), "").unwrap_err();
        assert!(error.to_string().contains("extra.jar"), "{error}");
    }
}
