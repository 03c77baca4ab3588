//! Which device a certificate speaks for.
//!
//! The gateway calls this on certificates whose chain is verified. A certificate that could be read as two devices is
//! refused, because then the answer would depend on who reads it.

use penstock_proto::DeviceId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a device's SAN URI begins with (RFC 9562 section 4).
pub(crate) const URN_UUID: &str = "urn:uuid:";

/// A certificate speaks for no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no X.509 certificate in DER.
    #[error("not an X.509 certificate: {why}")]
    Malformed {
        /// What the parser found.
        why: String,
    },
    /// Neither a SAN URI `urn:uuid:…` nor a common name.
    #[error("the certificate names no device: expected a SAN URI urn:uuid:<UUID> or a subject CN <UUID>")]
    Missing,
    /// Two SAN URIs `urn:uuid:…`, or two common names.
    #[error("the certificate has more than one {field}: it must name exactly one device")]
    Ambiguous {
        /// `SAN URI urn:uuid` or `subject CN`.
        field: &'static str,
    },
    /// The SAN URI or the common name is no canonical UUID.
    #[error("{field} {found:?} is not a device id: expected a UUID in lower-case text form")]
    NotADevice {
        /// `SAN URI urn:uuid` or `subject CN`.
        field: &'static str,
        /// What is there instead, cut after 64 characters.
        found: String,
    },
}

/// The device that a certificate (DER) speaks for: its SAN URI `urn:uuid:<UUID>`, or else its subject CN.
///
/// Where a `urn:uuid` is present the common name is not looked at. The chain and the validity are not checked here.
///
/// # Errors
/// [`IdentityError`]; never panics, whatever the bytes.
pub fn identity(cert_der: &[u8]) -> Result<DeviceId, IdentityError> {
    let malformed = |why: String| IdentityError::Malformed { why };
    let (rest, certificate) =
        X509Certificate::from_der(cert_der).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes after its end", rest.len())));
    }
    of_certificate(&certificate)
}

pub(crate) fn of_certificate(certificate: &X509Certificate<'_>) -> Result<DeviceId, IdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| IdentityError::Malformed { why: error.to_string() })?;
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(urn_uuid);
    if let Some(device) = only_device("SAN URI urn:uuid", uris.map(Ok::<_, ()>))? {
        return Ok(device);
    }
    let common_names = certificate.subject().iter_common_name().map(|name| name.as_str());
    only_device("subject CN", common_names)?.ok_or(IdentityError::Missing)
}

fn urn_uuid<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) if uri.get(..URN_UUID.len())?.eq_ignore_ascii_case(URN_UUID) => {
            uri.get(URN_UUID.len()..)
        }
        _ => None,
    }
}

fn only_device<'a, E>(
    field: &'static str,
    mut texts: impl Iterator<Item = Result<&'a str, E>>,
) -> Result<Option<DeviceId>, IdentityError> {
    let Some(text) = texts.next() else { return Ok(None) };
    if texts.next().is_some() {
        return Err(IdentityError::Ambiguous { field });
    }
    let text = text.unwrap_or("(not text)");
    let not_a_device = |_| IdentityError::NotADevice { field, found: text.chars().take(64).collect() };
    text.parse().map(Some).map_err(not_a_device)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    const ID: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";
    const OTHER: &str = "ffffffff-0000-4000-8000-0123456789ab";

    fn der(common_names: &[&str], uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // rcgen keeps one value for each type: further common names go in under a type of the same length (2.5.4.x,
        // 06 03 55 04 xx) and are renamed in the DER. The signature breaks, which nobody checks here.
        for (index, name) in (0u8..).zip(common_names) {
            let kind = if index == 0 {
                DnType::CommonName
            } else {
                DnType::from_oid(&[2, 5, 4, 100 + u64::from(index)])
            };
            params.distinguished_name.push(kind, *name);
        }
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        let mut der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        for at in 4..der.len() {
            if der[at - 4..at] == [6, 3, 0x55, 4] && der[at] > 100 {
                der[at] = 3;
            }
        }
        der
    }

    fn urn(id: &str) -> String {
        format!("urn:uuid:{id}")
    }

    #[test]
    fn the_uri_names_the_device_and_the_common_name_is_then_not_looked_at() {
        let id: DeviceId = ID.parse().unwrap();
        assert_eq!(identity(&der(&[OTHER], &[&urn(ID)])), Ok(id));
        assert_eq!(identity(&der(&[], &[&urn(ID), "https://example.org"])), Ok(id));
        assert_eq!(identity(&der(&["a", "b"], &[&format!("URN:UUID:{ID}")])), Ok(id));
    }

    #[test]
    fn without_a_uri_the_common_name_names_the_device() {
        assert_eq!(identity(&der(&[ID], &[])), Ok(ID.parse().unwrap()));
        assert_eq!(identity(&der(&[ID], &["https://example.org"])), Ok(ID.parse().unwrap()));
    }

    #[test]
    fn two_names_of_a_kind_are_refused_even_if_they_are_the_same() {
        let ambiguous = |field| Err(IdentityError::Ambiguous { field });
        assert_eq!(identity(&der(&[ID, OTHER], &[])), ambiguous("subject CN"));
        assert_eq!(identity(&der(&[ID], &[&urn(ID), &urn(OTHER)])), ambiguous("SAN URI urn:uuid"));
        assert_eq!(identity(&der(&[ID], &[&urn(ID), &urn(ID)])), ambiguous("SAN URI urn:uuid"));
    }

    #[test]
    fn a_bad_uri_is_refused_and_not_replaced_by_the_common_name() {
        let refused = identity(&der(&[ID], &[&urn("not-a-uuid")])).unwrap_err();
        assert!(matches!(refused, IdentityError::NotADevice { field: "SAN URI urn:uuid", .. }), "{refused}");
        assert!(identity(&der(&[ID], &[&urn(&ID.to_uppercase())])).is_err());
    }

    #[test]
    fn a_certificate_without_a_device_is_refused() {
        assert_eq!(identity(&der(&[], &[])), Err(IdentityError::Missing));
        assert!(matches!(identity(&der(&["sensor 7"], &[])), Err(IdentityError::NotADevice { .. })));
        assert!(matches!(identity(&der(&[&"é".repeat(99)], &[])), Err(IdentityError::NotADevice { .. })));
    }

    #[test]
    fn bytes_after_the_certificate_are_refused() {
        let mut bytes = der(&[ID], &[]);
        bytes.push(0);
        assert!(matches!(identity(&bytes), Err(IdentityError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(identity(&bytes).is_err());
        }

        #[test]
        fn a_damaged_certificate_never_panics(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| der(&[OTHER], &[&urn(ID)]));
            let mut bytes = CERTIFICATE.clone();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(1 + cut.index(bytes.len()));
            let _ = identity(&bytes);
        }
    }
}
