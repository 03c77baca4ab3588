//! The data types of MQTT (MQTT 5 1.5), read in place and written. Never allocates while reading, never panics.

use std::num::NonZeroU16;

use super::reason::Violation;

/// The largest number that a variable byte integer holds (MQTT 5 1.5.5), and so the longest body of a packet.
pub(super) const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

const ENDS_EARLY: Violation = Violation::malformed("a field runs past the end of the packet (5: 4.13.1)");
const TOO_LONG: Violation =
    Violation::malformed("a variable byte integer has more than 4 bytes (5: 1.5.5, 3.1.1: 2.2.3)");
const NOT_MINIMAL: Violation =
    Violation::malformed("a variable byte integer has more bytes than it needs (5: MQTT-1.5.5-1)");
const ILL_FORMED: Violation =
    Violation::malformed("a string is not well-formed UTF-8 (5: MQTT-1.5.4-1, 3.1.1: MQTT-1.5.3-1)");
const HAS_NUL: Violation =
    Violation::malformed("a string holds the character U+0000 (5: MQTT-1.5.4-2, 3.1.1: MQTT-1.5.3-2)");
const WILDCARD: Violation =
    Violation::topic_name("a topic name holds a wildcard (5: MQTT-3.3.2-2, 3.1.1: MQTT-3.3.2-2)");
const PACKET_ID_ZERO: Violation =
    Violation::protocol_error("a packet identifier is zero (5: MQTT-2.2.1-3, 3.1.1: MQTT-2.3.1-1)");

/// The identifier of a packet that is acknowledged (MQTT 5 2.2.1): 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The identifier with this number, `None` for zero.
    #[inline]
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number on the wire.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl From<NonZeroU16> for PacketId {
    fn from(id: NonZeroU16) -> Self {
        Self(id)
    }
}

/// The variable byte integer at the start of `bytes` and how many bytes it has; `None` where it is not all there.
#[inline]
pub(super) fn variable_byte_integer(bytes: &[u8]) -> Result<Option<(u32, usize)>, Violation> {
    if let [byte @ 0..=0x7f, ..] = bytes {
        return Ok(Some((u32::from(*byte), 1)));
    }
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { Err(TOO_LONG) } else { Ok(None) }
}

/// True where no shorter variable byte integer holds `value` than one of `bytes` bytes.
#[inline]
pub(super) const fn is_minimal(value: u32, bytes: usize) -> bool {
    bytes == variable_byte_integer_bytes(value)
}

/// Bytes of the variable byte integer that holds `value`.
#[inline]
pub(super) const fn variable_byte_integer_bytes(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

/// Appends `value`, which is at most [`VARIABLE_BYTE_INTEGER_MAX`].
#[inline]
pub(super) fn write_variable_byte_integer(out: &mut Vec<u8>, value: u32) {
    let mut rest = value.min(VARIABLE_BYTE_INTEGER_MAX);
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Bytes that are still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    #[inline]
    pub(super) const fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    #[inline]
    pub(super) const fn finish(&self) -> Result<(), Violation> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Violation::malformed("bytes follow the last field of the packet (5: 4.13.1, 3.1.1: 2.2.3)"))
        }
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Violation> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Violation> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer of MQTT 5, which is as short as it can be.
    #[inline]
    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, Violation> {
        let (value, bytes) = variable_byte_integer(self.rest)?.ok_or(ENDS_EARLY)?;
        if !is_minimal(value, bytes) {
            return Err(NOT_MINIMAL);
        }
        self.take(bytes)?;
        Ok(value)
    }

    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, Violation> {
        PacketId::new(self.u16()?).ok_or(PACKET_ID_ZERO)
    }

    /// Binary data (MQTT 5 1.5.6).
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 encoded string (MQTT 5 1.5.4). U+FEFF at its start stays where it is [MQTT-1.5.4-3].
    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).map_err(|_| ILL_FORMED)?;
        if bytes.contains(&0) { Err(HAS_NUL) } else { Ok(text) }
    }

    /// A string that is a topic name (MQTT 5 4.7): no wildcards. It may be empty, which is the caller's to judge.
    #[inline]
    pub(super) fn topic_name(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).map_err(|_| ILL_FORMED)?;
        // No early exit: one pass that the compiler turns into vector instructions.
        let refused = bytes.iter().fold(false, |bad, &byte| bad | matches!(byte, 0 | b'+' | b'#'));
        if !refused {
            return Ok(text);
        }
        Err(if bytes.contains(&0) { HAS_NUL } else { WILDCARD })
    }
}

/// A topic name that must name something (MQTT 5 4.7.3).
pub(super) const fn not_empty(topic: &str) -> Result<(), Violation> {
    if topic.is_empty() {
        return Err(Violation::topic_name("a topic name is empty (5: MQTT-4.7.3-1, 3.1.1: MQTT-4.7.3-1)"));
    }
    Ok(())
}
