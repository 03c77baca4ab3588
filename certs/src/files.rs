//! Writes certificates and keys: whole or not at all, keys readable by their owner only.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{CertsError, Credentials};

const KEY_MODE: u32 = 0o600;
const CERT_MODE: u32 = 0o644;

/// Whether a file that exists may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// An existing file is an error and stays as it is.
    Refuse,
    /// An existing file is replaced.
    Force,
}

impl From<bool> for Overwrite {
    fn from(force: bool) -> Self {
        if force { Self::Force } else { Self::Refuse }
    }
}

/// Where a certificate and its key are: `<stem>.pem` and `<stem>.key` in one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The certificate, PEM, mode 0644.
    pub cert: PathBuf,
    /// The private key, PKCS#8 PEM, mode 0600.
    pub key: PathBuf,
}

impl CredentialFiles {
    /// The two files with this stem in `dir`.
    pub fn new(dir: &Path, stem: &str) -> Self {
        Self { cert: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")) }
    }

    /// Writes both files, creating the folder; each appears whole or not at all.
    ///
    /// # Errors
    /// [`CertsError::Exists`] before anything is written if one is there and `overwrite` refuses;
    /// [`CertsError::Write`].
    pub fn write(&self, credentials: &Credentials, overwrite: Overwrite) -> Result<(), CertsError> {
        if overwrite == Overwrite::Refuse {
            for path in [&self.cert, &self.key] {
                if path.exists() {
                    return Err(CertsError::Exists { path: path.clone() });
                }
            }
        }
        write(&self.key, credentials.key_pem.as_bytes(), KEY_MODE, overwrite)?;
        write(&self.cert, credentials.cert_pem.as_bytes(), CERT_MODE, overwrite)
    }
}

/// Writes a file that anyone may read, as [`CredentialFiles::write`] does.
pub(crate) fn write_public(path: &Path, content: &str, overwrite: Overwrite) -> Result<(), CertsError> {
    write(path, content.as_bytes(), CERT_MODE, overwrite)
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|cause| CertsError::Read { path: path.to_owned(), cause })
}

fn write(path: &Path, content: &[u8], mode: u32, overwrite: Overwrite) -> Result<(), CertsError> {
    try_write(path, content, mode, overwrite).map_err(|cause| match cause.kind() {
        io::ErrorKind::AlreadyExists => CertsError::Exists { path: path.to_owned() },
        _ => CertsError::Write { path: path.to_owned(), cause },
    })
}

fn try_write(path: &Path, content: &[u8], mode: u32, overwrite: Overwrite) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    // A temporary file is made with mode 0600: a key is never readable by others, not even for a moment.
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    match overwrite {
        Overwrite::Refuse => file.persist_noclobber(path)?,
        Overwrite::Force => file.persist(path)?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Serial;

    fn credentials(text: &str) -> Credentials {
        Credentials {
            cert_pem: format!("cert {text}"),
            key_pem: format!("key {text}"),
            serial: Serial::from_bytes(&[1]).unwrap(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_readable_by_its_owner_only_and_the_folder_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let files = CredentialFiles::new(&dir.path().join("a/b"), "server");
        files.write(&credentials("1"), Overwrite::Refuse).unwrap();
        assert_eq!((mode(&files.key), mode(&files.cert)), (0o600, 0o644));
        assert_eq!(read(&files.key).unwrap(), "key 1");
    }

    #[test]
    fn a_file_that_is_there_stays_as_it_is_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let files = CredentialFiles::new(dir.path(), "server");
        files.write(&credentials("1"), Overwrite::Refuse).unwrap();
        fs::remove_file(&files.key).unwrap();
        let error = files.write(&credentials("2"), Overwrite::Refuse).unwrap_err();
        assert!(error.to_string().contains("server.pem") && error.to_string().contains("--force"), "{error}");
        assert!(!files.key.exists(), "nothing is written when one of the two is there");
        files.write(&credentials("3"), Overwrite::Force).unwrap();
        assert_eq!((read(&files.cert).unwrap(), mode(&files.key)), ("cert 3".into(), 0o600));
    }

    #[test]
    fn no_temporary_file_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let files = CredentialFiles::new(dir.path(), "server");
        files.write(&credentials("1"), Overwrite::Refuse).unwrap();
        let _ = files.write(&credentials("2"), Overwrite::Refuse);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
