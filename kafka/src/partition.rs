//! Partitions: their names, and the one that a key belongs to. No I/O.

use std::fmt;
use std::sync::Arc;

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// The partition of `key` among `partitions`, as Java's default partitioner has it (murmur2 without the sign).
///
/// `partitions` of 0 is taken as 1.
pub const fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    let partitions = if partitions == 0 { 1 } else { partitions };
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2 with the seed of `org.apache.kafka.common.utils.Utils.murmur2`.
const fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Java's length is an int, and the hash takes no more of it than that.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "keys are far below 4 GiB, and Java truncates as well"
    )]
    let mut h = SEED ^ data.len() as u32;
    let mut rest = data;
    while let [a, b, c, d, tail @ ..] = rest {
        let mut k = u32::from_le_bytes([*a, *b, *c, *d]).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
        rest = tail;
    }
    let mut tail = [0_u8; 4];
    match rest {
        [] => {}
        [a] => tail = [*a, 0, 0, 0],
        [a, b] => tail = [*a, *b, 0, 0],
        [a, b, c, ..] => tail = [*a, *b, *c, 0],
    }
    if !rest.is_empty() {
        h = (h ^ u32::from_le_bytes(tail)).wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key (hexadecimal), `Utils.murmur2`, and `toPositive(murmur2) % 48` and `% 12`, printed by a Java program with
    /// kafka-clients 4.3.1.
    const FROM_JAVA: &[(&str, i32, u32, u32)] = &[
        ("", 275646681, 9, 9),
        ("61", -1563381124, 28, 4),
        ("6162", 316155434, 26, 2),
        ("616263", 479470107, 27, 3),
        ("61626364", -1323649548, 20, 8),
        ("6162636465", 461995741, 13, 1),
        ("3231", -973932308, 12, 0),
        ("666f6f626172", -790332482, 30, 6),
        ("612d6c6974746c652d6269742d6c6f6e672d737472696e67", -985981536, 32, 8),
        ("612d6c6974746c652d6269742d6c6f6e6765722d737472696e67", -1486304829, 35, 11),
        (
            "6c6b6a683233346c68396669756839307932336f697568736166756a6861646f66323239706872396831396838396838",
            -58897971,
            29,
            5,
        ),
        ("c3a9c3bce4b8ad", -446000220, 20, 8),
        ("30613162326333642d303030302d343030302d383030302d303132333435363738396162", 237604439, 23, 11),
        ("99170fbb183477a35a94c9bf390b7702", -31727833, 7, 7),
        ("09d32a595d4a987d41f4b3e592471abe", -235232315, 21, 9),
        ("05194bb55dcab3910016175aa147e1f3", 1756691639, 23, 11),
        ("e98ee81edf7fae40bfe793d9fced52b2", -1130342739, 29, 5),
        ("02e34d15e5c4caaf166fc2edcea4fb1b", 2099471924, 20, 8),
        ("65e240a4e944b31d0705e6c8b71cf8bd", -1131633781, 43, 7),
        ("fc97c696693058b22edd1479f1953297", -1662379246, 34, 10),
        ("e1c82141a6a46d99364cf461b317c99f", 1225623069, 45, 9),
        (
            "ee614cc5a74b029f8f814e38d93995b694aa2150847891d75da8ddddc46434afeb50781ae04364f9",
            -1419858630,
            26,
            2,
        ),
        (
            "b3a3f3707eab79470ba3c885b66c499800da641a22a420ee9989ec985901e416c9c38fbf7ae22a00a4174c64b5",
            372530863,
            31,
            7,
        ),
        (
            "9831c2d5e9f8c7dcb1c3a276da03c5c5347dd8728b234273149eb6e9bb0ff5f4111a021c9a0168a981181c9a324f0aec0939",
            1320418197,
            21,
            9,
        ),
        (
            "13018ebde232b69b463dffe94c73ba9c9960c80b6a214cc7b067f90295b0180a98eba8fce9bf8a819b01f5529ebc20efacd4d95a616659",
            660048696,
            24,
            0,
        ),
        ("ffffffffffffffffffffffffffffffff", 1431967450, 10, 10),
        ("00000000000000000000000000000000", -1795725688, 40, 4),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn keys_belong_to_the_partitions_that_java_gives_them() {
        for (key, hash, of_48, of_12) in FROM_JAVA {
            let key = bytes(key);
            assert_eq!(murmur2(&key).cast_signed(), *hash, "hash of {key:02x?}");
            assert_eq!(partition_for_key(&key, 48), *of_48, "partition of {key:02x?}");
            assert_eq!(partition_for_key(&key, 12), *of_12, "partition of {key:02x?}");
        }
    }

    #[test]
    fn no_partitions_at_all_is_taken_as_one() {
        assert_eq!(partition_for_key(b"device", 0), 0);
    }
}
