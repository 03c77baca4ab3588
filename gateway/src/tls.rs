//! TLS: certificates from files, reloaded on demand, and handshakes that hold nobody else up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use penstock_service::config::GatewayTls;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// A PEM file larger than this is refused unread.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Unread plaintext and unsent ciphertext that rustls keeps for a connection at most.
const TLS_BUFFER_BYTES_MAX: usize = 32 * 1024;

/// A certificate, key or revocation list cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}", file = file.display())]
pub struct TlsError {
    /// The file in question.
    pub file: PathBuf,
    /// What is wrong with it and what would be right.
    pub why: String,
}

impl TlsError {
    fn new(file: &Path, why: impl Into<String>) -> Self {
        Self { file: file.to_owned(), why: why.into() }
    }
}

/// The TLS configuration in force; replaced by [`TlsConfig::reload`], which touches no connection that is open.
#[derive(Debug)]
pub struct TlsConfig {
    settings: GatewayTls,
    current: ArcSwap<ServerConfig>,
}

impl TlsConfig {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] naming the first file that cannot be used.
    pub fn load(settings: &GatewayTls) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(server_config(settings)?);
        Ok(Self { settings: settings.clone(), current })
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again. Handshakes from now on use them; where one cannot be used nothing changes.
    ///
    /// # Errors
    /// [`TlsError`] naming the first file that cannot be used.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(&self.settings)?));
        Ok(())
    }
}

fn server_config(settings: &GatewayTls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = roots(&settings.client_ca_file)?;
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    for file in &settings.crl_files {
        verifier = verifier.with_crls(revocations(file)?);
    }
    if !settings.crl_files.is_empty() {
        // A list of one authority must not lock out the devices of another that publishes none.
        verifier = verifier.allow_unknown_revocation_status();
    }
    let verifier = verifier.build().map_err(|error| {
        let file = match error {
            VerifierBuilderError::InvalidCrl(_) => {
                settings.crl_files.first().unwrap_or(&settings.client_ca_file)
            }
            _ => &settings.client_ca_file,
        };
        TlsError::new(file, error.to_string())
    })?;
    let chain = certificates(&settings.cert_file)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&settings.key_file)?)
        .map_err(|error| TlsError::new(&settings.key_file, explain(&error, "one private key in PEM")))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TlsError::new(&settings.cert_file, error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::new(&settings.key_file, format!("does not go with cert_file: {error}")))?;
    // Stateless tickets: a fleet that reconnects costs no memory. Each reload makes a new key, so that a ticket does not
    // outlive the revocation list it was given under.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
        .map_err(|error| TlsError::new(&settings.key_file, error.to_string()))?;
    config.send_tls13_tickets = 1;
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    Ok(config)
}

/// Bounds what rustls buffers for one connection.
pub fn bound_buffers(connection: &mut rustls::ServerConnection) {
    connection.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| TlsError::new(file, error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new(file, explain(&error, "certificates in PEM")))?;
    if certificates.is_empty() {
        return Err(TlsError::new(file, "holds no certificate; it must hold certificates in PEM"));
    }
    Ok(certificates)
}

fn revocations(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    CertificateRevocationListDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new(file, explain(&error, "certificate revocation lists in PEM")))
}

fn explain(error: &pem::Error, expected: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("must hold {expected}, and holds none"),
        error => format!("must hold {expected}: {error:?}"),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error: &io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "; `penstock certs --help` shows how to make one for development",
            io::ErrorKind::PermissionDenied => "; the gateway's user must be able to read it",
            _ => "",
        };
        TlsError::new(file, format!("cannot be read: {error}{remedy}"))
    };
    let bytes = fs::metadata(file).map_err(|error| failed(&error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(TlsError::new(file, format!("has {bytes} bytes, at most {FILE_BYTES_MAX}")));
    }
    fs::read(file).map_err(|error| failed(&error))
}
