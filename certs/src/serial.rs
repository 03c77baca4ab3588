//! Serial numbers of certificates.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The serial number of a certificate: 1 to 20 bytes, most significant first, as RFC 5280 section 4.1.2.2 has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

/// The text is no serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a serial number: expected 2 to 40 hexadecimal digits, with or without colons")]
pub struct ParseSerialError;

impl Serial {
    const BYTES_MAX: usize = 20;

    /// A serial number that no other certificate has: 16 bytes, 116 of their bits random.
    pub(crate) fn random() -> Self {
        let mut bytes = Uuid::new_v4().into_bytes();
        // DER integers are signed and without leading zeros: the first byte is 0x40 to 0x7f.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Self(bytes.to_vec())
    }

    /// The serial number with these bytes.
    ///
    /// # Errors
    /// [`ParseSerialError`] if there are none or more than 20 after leading zeros.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseSerialError> {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let bytes = &bytes[zeros..];
        if bytes.is_empty() || bytes.len() > Self::BYTES_MAX {
            return Err(ParseSerialError);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes, most significant first, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = ParseSerialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        if !digits.len().is_multiple_of(2) {
            return Err(ParseSerialError);
        }
        let byte = |pair: &[u8]| {
            let pair =
                std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        Self::from_bytes(&bytes.ok_or(ParseSerialError)?)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_reads_back_from_its_text_with_or_without_colons() {
        let serial = Serial::random();
        assert_eq!(serial.to_string().parse(), Ok(serial));
        assert_eq!("0a:Ff".parse::<Serial>().unwrap().as_bytes(), [0x0a, 0xff]);
        assert_eq!("000aff".parse::<Serial>().unwrap().to_string(), "0aff");
    }

    #[test]
    fn other_text_is_no_serial_number() {
        for text in ["", "a", "00", "0x10", "zz", "é0", &"ab".repeat(21)] {
            assert_eq!(text.parse::<Serial>(), Err(ParseSerialError), "{text}");
        }
    }
}
