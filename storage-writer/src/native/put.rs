//! The scalars of the Native format.

/// Appends `value` as a varint of 7 bits a byte, low bits first.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

#[allow(clippy::cast_possible_truncation, reason = "masked to seven bits")]
const fn low_byte(value: u64) -> u8 {
    (value & 0x7f) as u8
}

/// Appends `text` behind its length.
#[inline]
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Reads a varint that [`put_varint`] wrote: its value, and how many bytes it takes.
pub(super) fn varint_bytes(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(9).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    None
}

/// A `Nullable` column: for each row whether it is NULL, then the values, where a NULL is 0.
macro_rules! nullable {
    ($(#[doc = $doc:literal] $name:ident: $type:ty),+ $(,)?) => {$(
        #[doc = $doc]
        #[derive(Debug, Default)]
        pub(super) struct $name {
            nulls: Vec<u8>,
            values: Vec<u8>,
        }

        impl $name {
            #[inline]
            pub(super) fn push(&mut self, value: Option<$type>) {
                self.nulls.push(u8::from(value.is_none()));
                self.values.extend_from_slice(&value.unwrap_or_default().to_le_bytes());
            }

            pub(super) fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.nulls);
                out.extend_from_slice(&self.values);
            }

            pub(super) const fn capacity_bytes(&self) -> usize {
                self.nulls.capacity() + self.values.capacity()
            }

            pub(super) fn clear(&mut self) {
                self.nulls.clear();
                self.values.clear();
            }
        }
    )+};
}

nullable! {
    /// `Nullable(Float32)`.
    NullableF32: f32,
    /// `Nullable(UInt8)`.
    NullableU8: u8,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_length_reads_back_as_it_was_written(len in 0..usize::MAX >> 1) {
            let mut out = Vec::new();
            put_varint(&mut out, len as u64);
            prop_assert_eq!(varint_bytes(&out), Some((len, out.len())));
        }
    }
}
