//! What a certificate says, for people.

use std::fmt;

use jiff::Timestamp;
use penstock_proto::DeviceId;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Serialize, Serializer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{IdentityError, Serial};

/// What a certificate says.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// The device it speaks for; servers and authorities speak for none.
    #[serde(serialize_with = "text_or_null")]
    pub device: Option<DeviceId>,
    /// Why it speaks for no device.
    #[serde(skip)]
    pub no_device: Option<IdentityError>,
    /// Distinguished name of its holder.
    pub subject: String,
    /// Distinguished name of the authority that signed it.
    pub issuer: String,
    /// Subject alternative names: DNS names, IP addresses, URIs.
    pub names: Vec<String>,
    /// Serial number, by which it is revoked; hexadecimal in JSON.
    #[serde(serialize_with = "text")]
    pub serial: Serial,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// Whether it may sign other certificates.
    pub authority: bool,
    /// DER of the subject's public key.
    #[serde(skip)]
    pub public_key: Vec<u8>,
}

fn text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn text_or_null<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

impl Description {
    /// Whether the moment is inside the validity.
    pub fn is_valid_at(&self, moment: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&moment)
    }
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// What was expected and found, for people.
pub fn describe(pem: &str) -> Result<Description, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| format!("expected a PEM block BEGIN CERTIFICATE: {error}"))?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| format!("not an X.509 certificate: {error}"))?;
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let identity = crate::identity::of_certificate(&certificate);
    Ok(Description {
        device: identity.as_ref().ok().copied(),
        no_device: identity.err(),
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names: names.iter().flat_map(|names| &names.value.general_names).map(name).collect(),
        serial: Serial::from_bytes(certificate.raw_serial())
            .map_err(|_| "its serial number is 0 or too long")?,
        not_before: moment(certificate.validity().not_before.timestamp())?,
        not_after: moment(certificate.validity().not_after.timestamp())?,
        authority: certificate.is_ca(),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

fn moment(unix_s: i64) -> Result<Timestamp, String> {
    Timestamp::from_second(unix_s).map_err(|error| format!("its validity is out of range: {error}"))
}

fn name(name: &x509_parser::extensions::GeneralName<'_>) -> String {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            (*name).to_owned()
        }
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(bytes), _) => std::net::Ipv4Addr::from(bytes).to_string(),
            (_, Ok(bytes)) => std::net::Ipv6Addr::from(bytes).to_string(),
            _ => name.to_string(),
        },
        _ => name.to_string(),
    }
}
