//! Device groups: files with one device id a line.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use penstock_proto::DeviceId;

use super::error::RulesError;

/// Bytes of a group's file at most: about 1.7 million devices.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 20;

/// At most `bytes_max` bytes of a file; more is an error.
pub(crate) fn read_limited(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let message = format!("has more than {bytes_max} bytes; is this the right file?");
        return Err(io::Error::other(message));
    }
    Ok(bytes)
}

/// The devices named in `text`: one a line, `#` begins a comment.
pub(crate) fn parse(file: &str, text: &[u8], problems: &mut RulesError) -> HashSet<DeviceId> {
    let before = problems.len();
    let mut devices = HashSet::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let before_comment = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let id = before_comment.trim_ascii();
        if id.is_empty() {
            continue;
        }
        match DeviceId::parse(id) {
            Ok(device) => drop(devices.insert(device)),
            Err(error) => {
                let found = String::from_utf8_lossy(&id[..id.len().min(64)]);
                problems.push(file, index + 1, format!("found {found:?}: {error}"));
            }
        }
    }
    if devices.is_empty() && problems.len() == before {
        problems.push(file, 0, "names no device; write one device id a line".to_owned());
    }
    devices
}
