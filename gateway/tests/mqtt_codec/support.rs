//! Builds packets byte by byte, so that the tests depend on no encoder.

use penstock_gateway::mqtt::{Frame, Packet, ReasonCode, Version, Violation, decode, next_frame};

pub(crate) const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// A packet with its remaining length.
pub(crate) fn packet(first_byte: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[first_byte][..], &varint(body.len()), &body].concat()
}

/// A variable byte integer.
pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value % 128).unwrap();
        value /= 128;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// Two bytes of length, then the bytes.
pub(crate) fn binary(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// Properties with their length.
pub(crate) fn properties(parts: &[&[u8]]) -> Vec<u8> {
    let all = parts.concat();
    [varint(all.len()), all].concat()
}

/// What stands between packet identifier and payload in the version: nothing, or no properties.
pub(crate) const fn no_properties(version: Version) -> &'static [u8] {
    match version {
        Version::V311 => &[],
        Version::V5 => &[0],
    }
}

/// The one frame that `bytes` is.
pub(crate) fn frame(bytes: &[u8]) -> Frame<'_> {
    let frame = next_frame(bytes, usize::MAX).unwrap().unwrap();
    assert_eq!(frame.bytes, bytes.len());
    frame
}

pub(crate) fn accept(bytes: &[u8], version: Version) -> Packet<'_> {
    decode(&frame(bytes), version)
        .unwrap_or_else(|violation| panic!("{version:?}: {violation}: {bytes:02x?}"))
}

/// The packet is refused for this reason, by the rule with this number.
pub(crate) fn refuse(bytes: &[u8], version: Version, reason: ReasonCode, rule: &str) {
    match decode(&frame(bytes), version) {
        Ok(packet) => panic!("{version:?} accepts {packet:?}"),
        Err(violation) => check(violation, reason, rule),
    }
}

pub(crate) fn check(violation: Violation, reason: ReasonCode, rule: &str) {
    assert_eq!(violation.reason, reason, "{violation}");
    assert!(violation.what.contains(rule), "{violation} does not name {rule}");
    assert!(violation.to_string().contains(reason.name()));
}
