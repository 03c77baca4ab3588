//! Reads the configuration file, at most a fixed number of bytes of it. Never looks at what it says.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::error::{ConfigError, Origin};

/// A larger configuration file is refused: somebody has named the wrong file.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// The text of a file that must exist.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    match read_bytes(path) {
        Ok(bytes) => to_text(path, bytes),
        Err(why) => Err(unreadable(path, &why)),
    }
}

/// The text of a file that need not exist.
pub(crate) fn read_if_exists(path: &Path) -> Result<Option<String>, ConfigError> {
    match read_bytes(path) {
        Ok(bytes) => to_text(path, bytes).map(Some),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(unreadable(path, &why)),
    }
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn to_text(path: &Path, bytes: Vec<u8>) -> Result<String, ConfigError> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!("has more than {FILE_BYTES_MAX} bytes; is this the right file?");
        return Err(about(path, 0, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        about(path, line, "is not UTF-8 text from here on; save it as UTF-8".to_owned())
    })
}

fn unreadable(path: &Path, why: &io::Error) -> ConfigError {
    let remedy = match why.kind() {
        ErrorKind::NotFound => "name an existing file, or none to use the defaults",
        ErrorKind::PermissionDenied => "let the user of this process read it",
        _ => "name a readable file",
    };
    about(path, 0, format!("cannot be read ({why}); {remedy}"))
}

fn about(path: &Path, line: usize, message: String) -> ConfigError {
    ConfigError {
        origin: Origin::File { path: path.to_owned(), line, column: None },
        key: String::new(),
        message,
    }
}
