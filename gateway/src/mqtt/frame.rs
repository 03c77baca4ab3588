//! Cuts the stream into packets by their fixed header (MQTT 5 2.1). Never looks into a packet.

use super::primitives::{is_minimal, variable_byte_integer};
use super::reason::{ReasonCode, Violation};

/// One whole packet, still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Packet type and flags.
    pub first_byte: u8,
    /// Variable header and payload.
    pub body: &'a [u8],
    /// Length of the whole packet in bytes, fixed header included: where the next packet begins.
    pub bytes: usize,
}

impl Frame<'_> {
    /// The packet type, 0 to 15.
    #[inline]
    pub const fn packet_type(&self) -> u8 {
        self.first_byte >> 4
    }

    /// The four flags of the packet type.
    #[inline]
    pub(super) const fn flags(&self) -> u8 {
        self.first_byte & 0x0f
    }

    /// MQTT 5 wants the remaining length as short as it can be; MQTT 3.1.1 does not say.
    #[inline]
    pub(super) fn check_length_is_minimal(&self) -> Result<(), Violation> {
        let length_bytes = self.bytes.saturating_sub(self.body.len() + 1);
        if u32::try_from(self.body.len()).is_ok_and(|length| is_minimal(length, length_bytes)) {
            return Ok(());
        }
        Err(Violation::malformed("the remaining length has more bytes than it needs (5: MQTT-1.5.5-1)"))
    }

    /// The flags that every packet type but PUBLISH fixes.
    #[inline]
    pub(super) const fn check_flags(&self, expected: u8) -> Result<(), Violation> {
        if self.flags() == expected {
            return Ok(());
        }
        Err(Violation::malformed(
            "flags of the fixed header that are reserved are set (5: MQTT-2.1.3-1, 3.1.1: MQTT-2.2.2-2)",
        ))
    }
}

/// The packet at the start of `buffer`; `None` while more bytes are needed. `packet_bytes_max` bounds the whole
/// packet, fixed header included, and is checked as soon as the length is known.
///
/// # Errors
/// [`Violation`] for a length of more than 4 bytes (0x81) or above `packet_bytes_max` (0x95).
#[inline]
pub fn next_frame(buffer: &[u8], packet_bytes_max: usize) -> Result<Option<Frame<'_>>, Violation> {
    let [first_byte, rest @ ..] = buffer else { return Ok(None) };
    let Some((length, length_bytes)) = variable_byte_integer(rest)? else { return Ok(None) };
    let body_start = 1 + length_bytes;
    let bytes = usize::try_from(length).map_or(usize::MAX, |length| length.saturating_add(body_start));
    if bytes > packet_bytes_max {
        return Err(Violation {
            reason: ReasonCode::PacketTooLarge,
            what: "a packet is larger than the maximum packet size (5: 3.2.2.3.6)",
        });
    }
    Ok(buffer.get(body_start..bytes).map(|body| Frame { first_byte: *first_byte, body, bytes }))
}
