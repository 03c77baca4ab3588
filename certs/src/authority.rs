//! The certificate authority: signs servers, devices and revocation lists.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use penstock_proto::DeviceId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

use crate::files::{self, CredentialFiles, Overwrite};
use crate::{CertsError, DAYS_MAX, Serial};

const STEM: &str = "ca";
/// Certificates are valid from an hour ago, so that a device whose clock is a little slow accepts them.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
const DAY_S: u64 = 24 * 60 * 60;

/// A certificate with its private key.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
    /// The certificate's serial number, by which it is revoked.
    pub serial: Serial,
}

impl fmt::Debug for Credentials {
    /// Shows the serial number, never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// A certificate authority: an ECDSA P-256 key with its self-signed certificate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    credentials: Credentials,
}

impl Authority {
    /// Makes a new authority, valid for `days` from now.
    ///
    /// # Errors
    /// [`CertsError::Days`], [`CertsError::Generate`].
    pub fn create(common_name: &str, days: u32) -> Result<Self, CertsError> {
        let serial = Serial::random();
        let mut params = params(common_name, days, &serial)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let cert_pem = params.self_signed(&key)?.pem();
        let credentials = Credentials { cert_pem, key_pem: key.serialize_pem(), serial };
        Ok(Self { issuer: Issuer::new(params, key), credentials })
    }

    /// Reads the authority that [`Authority::save`] wrote to `dir`.
    ///
    /// # Errors
    /// [`CertsError::NoAuthority`], [`CertsError::Read`], [`CertsError::Content`].
    pub fn load(dir: &Path) -> Result<Self, CertsError> {
        let files = Self::files(dir);
        if !files.cert.exists() && !files.key.exists() {
            return Err(CertsError::NoAuthority { dir: dir.to_owned() });
        }
        Self::load_files(&files)
    }

    /// Reads an authority from a certificate and a key file.
    ///
    /// # Errors
    /// [`CertsError::Read`]; [`CertsError::Content`] also where the key is not the certificate's.
    pub fn load_files(files: &CredentialFiles) -> Result<Self, CertsError> {
        let cert_pem = files::read(&files.cert)?;
        let key_pem = files::read(&files.key)?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| CertsError::content(&files.key, format!("not a private key in PEM: {error}")))?;
        let description = crate::describe(&cert_pem).map_err(|why| CertsError::content(&files.cert, why))?;
        if !description.authority {
            return Err(CertsError::content(
                &files.cert,
                "the certificate is not one of an authority (CA:FALSE)",
            ));
        }
        if description.public_key != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(CertsError::content(&files.key, format!("not the key of {}", files.cert.display())));
        }
        let serial = description.serial;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key)?;
        Ok(Self { issuer, credentials: Credentials { cert_pem, key_pem, serial } })
    }

    /// Writes `ca.pem` and `ca.key` to `dir`, creating it.
    ///
    /// # Errors
    /// [`CertsError::Exists`], [`CertsError::Write`].
    pub fn save(&self, dir: &Path, overwrite: Overwrite) -> Result<CredentialFiles, CertsError> {
        let files = Self::files(dir);
        files.write(&self.credentials, overwrite)?;
        Ok(files)
    }

    /// Where an authority in `dir` has its files.
    pub fn files(dir: &Path) -> CredentialFiles {
        CredentialFiles::new(dir, STEM)
    }

    /// The authority's own certificate and key.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The authority's certificate in PEM, which peers trust.
    pub fn cert_pem(&self) -> &str {
        &self.credentials.cert_pem
    }

    /// Signs a server's certificate for DNS names and IP addresses, valid for `days`; the first name is the subject's.
    ///
    /// # Errors
    /// [`CertsError::Name`] also where no name is given; [`CertsError::Days`], [`CertsError::Generate`].
    pub fn server<S: AsRef<str>>(&self, names: &[S], days: u32) -> Result<Credentials, CertsError> {
        let Some(first) = names.first() else {
            return Err(CertsError::Name { name: String::new() });
        };
        let serial = Serial::random();
        let mut params = params(first.as_ref(), days, &serial)?;
        params.subject_alt_names =
            names.iter().map(|name| server_name(name.as_ref())).collect::<Result<_, CertsError>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, serial)
    }

    /// Signs a device's certificate, valid for `days`: subject CN = the UUID, SAN URI = `urn:uuid:<UUID>`.
    ///
    /// # Errors
    /// [`CertsError::Days`], [`CertsError::Generate`].
    pub fn device(&self, device: DeviceId, days: u32) -> Result<Credentials, CertsError> {
        let serial = Serial::random();
        let mut params = params(&device.to_string(), days, &serial)?;
        let uri = Ia5String::try_from(format!("{}{device}", crate::identity::URN_UUID))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, serial)
    }

    /// A revocation list in PEM that names every given serial number, to be renewed within `days`.
    ///
    /// A list replaces the one before it: give all that are revoked, not only the new ones.
    ///
    /// # Errors
    /// [`CertsError::Days`], [`CertsError::Generate`].
    pub fn revoke(&self, serials: &[Serial], days: u32) -> Result<String, CertsError> {
        let (this_update, next_update) = validity(days)?;
        let now = SystemTime::now();
        let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let revoked = |serial: &Serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_bytes()),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: this_update.into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    fn sign(&self, mut params: CertificateParams, serial: Serial) -> Result<Credentials, CertsError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Credentials { cert_pem, key_pem: key.serialize_pem(), serial })
    }
}

impl fmt::Debug for Authority {
    /// Shows the serial number, never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

fn validity(days: u32) -> Result<(SystemTime, SystemTime), CertsError> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(CertsError::Days { days });
    }
    let now = SystemTime::now();
    Ok((now - BACKDATED, now + Duration::from_secs(u64::from(days) * DAY_S)))
}

fn params(common_name: &str, days: u32, serial: &Serial) -> Result<CertificateParams, CertsError> {
    let (not_before, not_after) = validity(days)?;
    let mut params = CertificateParams::default();
    // The default has a common name of its own, and a subject may hold several.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    Ok(params)
}

fn server_name(name: &str) -> Result<SanType, CertsError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let refused = || CertsError::Name { name: name.to_owned() };
    // A leading wildcard label is allowed in certificates, not in names to connect to.
    let plain = name.strip_prefix("*.").unwrap_or(name);
    rustls_pki_types::DnsName::try_from(plain).map_err(|_| refused())?;
    Ia5String::try_from(name).map(SanType::DnsName).map_err(|_| refused())
}
