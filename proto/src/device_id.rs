//! The identity of a device.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A device's identity: a UUID. In MQTT topics and certificates it is text, in Kafka keys and payloads its 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId([u8; 16]);

/// The text or bytes are no device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a device id: expected a UUID as 8-4-4-4-12 lower-case hexadecimal digits, or its 16 bytes")]
pub struct ParseDeviceIdError;

impl DeviceId {
    /// Length of the text form in bytes.
    pub const TEXT_BYTES: usize = 36;

    /// The identity with these 16 bytes, most significant first.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes: the Kafka key, and `SensorReading.device_id` where a payload has one.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Parses the canonical text form: lower-case, hyphenated, 36 bytes.
    ///
    /// Only the canonical form is accepted, because one device must have one topic.
    ///
    /// # Errors
    /// [`ParseDeviceIdError`] for any other text.
    pub fn parse(text: &[u8]) -> Result<Self, ParseDeviceIdError> {
        if text.len() != Self::TEXT_BYTES || text.iter().any(u8::is_ascii_uppercase) {
            return Err(ParseDeviceIdError);
        }
        Uuid::try_parse_ascii(text).map(|uuid| Self(uuid.into_bytes())).map_err(|_| ParseDeviceIdError)
    }
}

impl FromStr for DeviceId {
    type Err = ParseDeviceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl TryFrom<&[u8]> for DeviceId {
    type Error = ParseDeviceIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self).map_err(|_| ParseDeviceIdError)
    }
}

impl From<Uuid> for DeviceId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.into_bytes())
    }
}

impl From<DeviceId> for Uuid {
    fn from(id: DeviceId) -> Self {
        Uuid::from_bytes(id.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Uuid::from_bytes(self.0).as_hyphenated(), f)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_name_the_same_device() {
        let id: DeviceId = "0a1b2c3d-0000-4000-8000-0123456789ab".parse().unwrap();
        assert_eq!(id.as_bytes()[..4], [0x0a, 0x1b, 0x2c, 0x3d]);
        assert_eq!(id.to_string(), "0a1b2c3d-0000-4000-8000-0123456789ab");
        assert_eq!(DeviceId::try_from(&id.as_bytes()[..]).unwrap(), id);
    }

    #[test]
    fn only_the_canonical_text_form_is_a_device_id() {
        for text in [
            "",
            "0A1B2C3D-0000-4000-8000-0123456789AB",
            "0a1b2c3d00004000800001234 56789ab",
            "0a1b2c3d0000400080000123456789ab",
            "{0a1b2c3d-0000-4000-8000-0123456789ab}",
            "urn:uuid:0a1b2c3d-0000-4000-8000-0123456789ab",
            "0a1b2c3d-0000-4000-8000-0123456789ag",
        ] {
            assert_eq!(text.parse::<DeviceId>(), Err(ParseDeviceIdError), "{text}");
        }
    }

    #[test]
    fn bytes_of_any_other_length_are_no_device_id() {
        for len in [0, 1, 15, 17, 32] {
            assert!(DeviceId::try_from(&vec![0u8; len][..]).is_err());
        }
    }
}
