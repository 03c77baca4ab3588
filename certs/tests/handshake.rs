//! The certificates as TLS sees them: whole handshakes between a rustls client and a rustls server, in memory.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::sync::Arc;

use penstock_certs::{Authority, Credentials, Overwrite, identity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

const DEVICE: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

fn chain(credentials: &Credentials) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let cert = CertificateDer::from_pem_slice(credentials.cert_pem.as_bytes()).unwrap();
    (vec![cert], PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).unwrap())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Both sides of a handshake: who trusts whom and who shows what.
struct Handshake<'a> {
    server_trusts: &'a Authority,
    client_trusts: &'a Authority,
    server: &'a Credentials,
    client: &'a Credentials,
    connect_to: &'a str,
    crl_pem: Option<String>,
}

impl Handshake<'_> {
    /// The device the server sees.
    fn run(&self) -> Result<String, rustls::Error> {
        let crls = self
            .crl_pem
            .iter()
            .map(|pem| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(self.server_trusts), provider())
            .with_crls(crls)
            .build()
            .unwrap();
        let (cert, key) = chain(self.server);
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(cert, key)?;
        let (cert, key) = chain(self.client);
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(self.client_trusts))
            .with_client_auth_cert(cert, key)?;
        let name = ServerName::try_from(self.connect_to.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        for _ in 0..10 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets()?;
            }
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        let seen = server.peer_certificates().unwrap();
        Ok(identity(&seen[0]).unwrap().to_string())
    }
}

struct Pki {
    authority: Authority,
    other: Authority,
    server: Credentials,
    device: Credentials,
}

fn pki() -> Pki {
    let authority = Authority::create("test", 1).unwrap();
    let server = authority.server(&["gateway.example.org", "127.0.0.1", "::1"], 1).unwrap();
    let device = authority.device(DEVICE.parse().unwrap(), 1).unwrap();
    Pki { authority, other: Authority::create("test", 1).unwrap(), server, device }
}

impl Pki {
    fn handshake(&self) -> Handshake<'_> {
        Handshake {
            server_trusts: &self.authority,
            client_trusts: &self.authority,
            server: &self.server,
            client: &self.device,
            connect_to: "gateway.example.org",
            crl_pem: None,
        }
    }
}

#[test]
fn the_server_is_accepted_by_each_of_its_names_and_sees_the_device() {
    let pki = pki();
    for connect_to in ["gateway.example.org", "127.0.0.1", "::1"] {
        assert_eq!(Handshake { connect_to, ..pki.handshake() }.run().unwrap(), DEVICE);
    }
    let refused = Handshake { connect_to: "other.example.org", ..pki.handshake() }.run().unwrap_err();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
}

#[test]
fn an_authority_of_the_same_name_but_another_key_is_refused_on_either_side() {
    let pki = pki();
    for handshake in [
        Handshake { server_trusts: &pki.other, ..pki.handshake() },
        Handshake { client_trusts: &pki.other, ..pki.handshake() },
    ] {
        let refused = handshake.run().unwrap_err();
        assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
    }
}

#[test]
fn a_server_certificate_is_no_client_certificate_and_the_reverse() {
    let pki = pki();
    assert!(Handshake { client: &pki.server, ..pki.handshake() }.run().is_err());
    assert!(Handshake { server: &pki.device, ..pki.handshake() }.run().is_err());
}

#[test]
fn a_revoked_device_is_refused_and_others_are_not() {
    let pki = pki();
    let id = DEVICE.parse().unwrap();
    let other_device = pki.authority.device(id, 1).unwrap();
    let crl_pem = pki.authority.revoke(std::slice::from_ref(&pki.device.serial), 1).unwrap();
    let handshake = || Handshake { crl_pem: Some(crl_pem.clone()), ..pki.handshake() };
    let refused = handshake().run().unwrap_err();
    let revoked = rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked);
    assert_eq!(refused, revoked);
    assert_eq!(Handshake { client: &other_device, ..handshake() }.run().unwrap(), DEVICE);
}

#[test]
fn an_authority_that_was_saved_and_loaded_signs_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let pki = pki();
    pki.authority.save(dir.path(), Overwrite::Refuse).unwrap();
    let loaded = Authority::load(dir.path()).unwrap();
    let device = loaded.device(DEVICE.parse().unwrap(), 1).unwrap();
    assert_eq!(Handshake { client: &device, ..pki.handshake() }.run().unwrap(), DEVICE);
    let crl_pem = loaded.revoke(std::slice::from_ref(&device.serial), 1).unwrap();
    assert!(Handshake { client: &device, crl_pem: Some(crl_pem), ..pki.handshake() }.run().is_err());
}

#[test]
fn an_authority_whose_key_belongs_to_another_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let pki = pki();
    pki.authority.save(dir.path(), Overwrite::Refuse).unwrap();
    std::fs::write(dir.path().join("ca.key"), &pki.other.credentials().key_pem).unwrap();
    let error = Authority::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("ca.key") && error.contains("not the key of"), "{error}");
    std::fs::write(dir.path().join("ca.pem"), &pki.server.cert_pem).unwrap();
    let error = Authority::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not one of an authority"), "{error}");
}

#[test]
fn validity_and_names_have_limits() {
    let pki = pki();
    assert!(pki.authority.device(DEVICE.parse().unwrap(), 0).is_err());
    assert!(pki.authority.device(DEVICE.parse().unwrap(), u32::MAX).is_err());
    for name in ["", "no spaces allowed", "é.example.org", "a..b"] {
        let error = pki.authority.server(&[name], 1).unwrap_err().to_string();
        assert!(error.contains("neither a DNS name nor an IP address"), "{error}");
    }
    assert!(pki.authority.server::<&str>(&[], 1).is_err());
    assert!(pki.authority.server(&["*.example.org"], 1).is_ok());
}
