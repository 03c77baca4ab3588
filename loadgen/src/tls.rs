//! Client certificates of the fleet: read from a folder, or minted in memory from the authority's key.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_certs::{Authority, CertsError, CredentialFiles, device_ids};
use penstock_proto::DeviceId;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Validity of minted certificates.
const MINTED_DAYS: u32 = 30;

/// A certificate of the fleet could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A PEM text does not hold what it should.
    #[error("{what}: {why}")]
    Pem {
        /// The file, or what it is for.
        what: String,
        /// What was wrong.
        why: String,
    },
    /// The folder has fewer devices than asked for.
    #[error(
        "{} has certificates of {found} devices, {wanted} are wanted: \
         make more with `penstock certs devices --count {wanted}`", dir.display()
    )]
    TooFewDevices {
        /// The folder.
        dir: PathBuf,
        /// Devices in it.
        found: usize,
        /// Devices asked for.
        wanted: usize,
    },
    /// A device's certificate is not in the folder.
    #[error("no certificate of device {device} in {}: make it with `penstock certs device {device}`", dir.display())]
    NoDevice {
        /// The folder.
        dir: PathBuf,
        /// The device.
        device: DeviceId,
    },
    /// A certificate could not be minted.
    #[error(transparent)]
    Mint(#[from] CertsError),
    /// The TLS library refused the certificate or the key.
    #[error("certificate of device {device}: {cause}")]
    Refused {
        /// The device.
        device: DeviceId,
        /// What it said.
        cause: rustls::Error,
    },
}

/// Where the devices' certificates come from.
#[derive(Clone, Debug)]
pub enum Identities {
    /// `<uuid>.pem` and `<uuid>.key` in this folder, or in `devices` below it.
    Directory(PathBuf),
    /// Made in memory, signed by this authority.
    Mint(Arc<Authority>),
}

impl Identities {
    /// The ids of `count` devices: the first of the folder in their order, or those of the seed.
    ///
    /// `except` are left out: they have a part of their own in the run.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`TlsError::TooFewDevices`].
    pub fn devices(
        &self,
        count: usize,
        seed: u64,
        except: &HashSet<DeviceId>,
    ) -> Result<Vec<DeviceId>, TlsError> {
        match self {
            Self::Mint(_) => Ok(device_ids(Some(seed), count)),
            Self::Directory(_) if count == 0 => Ok(Vec::new()),
            Self::Directory(dir) => {
                let mut devices = devices_in(&below(dir))?;
                devices.retain(|device| !except.contains(device));
                if devices.len() < count {
                    return Err(TlsError::TooFewDevices {
                        dir: dir.clone(),
                        found: devices.len(),
                        wanted: count,
                    });
                }
                devices.truncate(count);
                Ok(devices)
            }
        }
    }

    /// What the device connects with: its certificate, and trust in `roots`. Sessions are never resumed, as devices
    /// that lose power do not either.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn client_config(
        &self,
        device: DeviceId,
        roots: Arc<RootCertStore>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let (cert_pem, key_pem) = self.credentials(device)?;
        let pem = |error: rustls::pki_types::pem::Error| TlsError::Pem {
            what: format!("certificate of device {device}"),
            why: error.to_string(),
        };
        let certs = CertificateDer::pem_slice_iter(cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(pem)?;
        let refused = |cause| TlsError::Refused { device, cause };
        let config = builder().map_err(refused)?.with_root_certificates(roots);
        let mut config = config.with_client_auth_cert(certs, key).map_err(refused)?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn credentials(&self, device: DeviceId) -> Result<(String, String), TlsError> {
        let dir = match self {
            Self::Mint(authority) => {
                let credentials = authority.device(device, MINTED_DAYS)?;
                return Ok((credentials.cert_pem, credentials.key_pem));
            }
            Self::Directory(dir) => dir,
        };
        let files = CredentialFiles::new(&below(dir), &device.to_string());
        if !files.cert.exists() {
            return Err(TlsError::NoDevice { dir: dir.clone(), device });
        }
        Ok((read(&files.cert)?, read(&files.key)?))
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn below(dir: &Path) -> PathBuf {
    let devices = dir.join("devices");
    if devices.is_dir() { devices } else { dir.to_owned() }
}

fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|cause| TlsError::Read { path: path.to_owned(), cause })
}

fn devices_in(dir: &Path) -> Result<Vec<DeviceId>, TlsError> {
    let read = |cause| TlsError::Read { path: dir.to_owned(), cause };
    let mut devices = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".pem"));
        devices.extend(stem.and_then(|stem| stem.parse::<DeviceId>().ok()));
    }
    devices.sort_unstable();
    Ok(devices)
}

/// The authorities in a PEM text, which servers are verified against.
///
/// # Errors
/// [`TlsError::Pem`].
pub fn trust(ca_pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let refused = |why: String| TlsError::Pem { what: "the authority's certificate (--ca)".to_owned(), why };
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let cert = cert.map_err(|error| refused(error.to_string()))?;
        roots.add(cert).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("expected a PEM block BEGIN CERTIFICATE".to_owned()));
    }
    Ok(Arc::new(roots))
}

/// What a client without a certificate connects with.
///
/// # Errors
/// The TLS library's.
pub fn anonymous(roots: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, rustls::Error> {
    Ok(Arc::new(builder()?.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use penstock_certs::{Overwrite, provision_devices};

    use super::*;

    fn none() -> HashSet<DeviceId> {
        HashSet::new()
    }

    #[test]
    fn devices_of_a_folder_come_in_order_and_without_the_excepted() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test", 1).unwrap();
        let mut devices = device_ids(Some(1), 5);
        provision_devices(&authority, dir.path(), &devices, 1, Overwrite::Refuse).unwrap();
        devices.sort_unstable();
        for folder in [dir.path().to_owned(), dir.path().join("devices")] {
            let identities = Identities::Directory(folder);
            assert_eq!(identities.devices(3, 9, &none()).unwrap(), devices[..3]);
            let without = identities.devices(3, 9, &[devices[0]].into()).unwrap();
            assert_eq!(without, devices[1..4]);
            let error = identities.devices(6, 9, &none()).unwrap_err().to_string();
            assert!(error.contains("of 5 devices, 6 are wanted"), "{error}");
            identities.client_config(devices[4], trust(authority.cert_pem()).unwrap()).unwrap();
            let error =
                identities.client_config(DeviceId::from_bytes([1; 16]), trust(authority.cert_pem()).unwrap());
            assert!(error.unwrap_err().to_string().contains("penstock certs device"));
        }
    }

    #[test]
    fn a_certificate_can_be_minted_for_any_device() {
        let authority = Arc::new(Authority::create("test", 1).unwrap());
        let roots = trust(authority.cert_pem()).unwrap();
        let identities = Identities::Mint(authority);
        for device in identities.devices(10, 4, &none()).unwrap() {
            identities.client_config(device, Arc::clone(&roots)).unwrap();
        }
    }

    #[test]
    fn trust_needs_a_certificate() {
        assert!(trust("").unwrap_err().to_string().contains("--ca"));
        let authority = Authority::create("test", 1).unwrap();
        assert!(trust(&authority.credentials().key_pem).is_err());
    }
}
