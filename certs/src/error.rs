//! What can go wrong, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// A certificate could not be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file is already there and replacing it was not asked for.
    #[error("{} exists already: choose another folder, or pass --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds no certificate authority.
    #[error("no certificate authority in {0}: create one with `penstock certs ca --dir {0}`", dir.display())]
    NoAuthority {
        /// The folder.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {cause}; check that the folder exists and is writable", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A file does not hold what its name promises.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected, and what was found.
        why: String,
    },
    /// A name of a server is neither a DNS name nor an IP address.
    #[error(
        "{name:?} is neither a DNS name nor an IP address: give names that clients connect to, like gateway.example.org"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The validity is outside what X.509 dates and this tool allow.
    #[error("a validity of {days} days is outside 1 to {max}", max = crate::DAYS_MAX)]
    Days {
        /// The validity asked for, in days.
        days: u32,
    },
    /// The cryptographic library refused.
    #[error("cannot make the certificate: {0}")]
    Generate(rcgen::Error),
}

// The messages name their cause already: were it a source too, a printed chain would say it twice.
impl From<rcgen::Error> for CertsError {
    fn from(error: rcgen::Error) -> Self {
        Self::Generate(error)
    }
}

impl CertsError {
    pub(crate) fn content(path: &Path, why: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), why: why.into() }
    }
}
