//! The fuzz targets as a bounded test: the committed corpus, then mutations of it by a seeded generator.
//!
//! `cargo +nightly fuzz run mqtt_packet` searches without a bound. After a change of the seeds, write the corpus anew:
//! `cargo test -p penstock-gateway --test mqtt_codec_fuzz -- --ignored write_the_corpus`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests and their helpers")]

use std::path::{Path, PathBuf};

// The targets name the codec as `crate::mqtt`.
use penstock_gateway::mqtt;

#[path = "mqtt_codec_fuzz/seeds.rs"]
mod seeds;
#[path = "../../fuzz/src/targets.rs"]
#[allow(unreachable_pub, reason = "public in the fuzz crate")]
mod targets;

/// Mutated inputs a target gets in one run.
const INPUTS: usize = 400_000;

fn corpus_folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        std::fs::read_dir(corpus_folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus for {target}");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Tells the input when a target panics on it.
struct Input<'a>(&'a [u8]);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input: {:02x?}", self.0);
        }
    }
}

fn run(name: &str, target: fn(&[u8])) {
    let corpus = corpus(name);
    for bytes in &corpus {
        let input = Input(bytes);
        target(input.0);
    }
    let mut rng = fastrand::Rng::with_seed(0x6d71_7474);
    for _ in 0..INPUTS {
        let bytes = mutated(&corpus, &mut rng);
        let input = Input(&bytes);
        target(input.0);
    }
}

/// An entry of the corpus with one to four changes.
fn mutated(corpus: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..=4) {
        if bytes.is_empty() {
            bytes.push(rng.u8(..));
        }
        let at = rng.usize(..bytes.len());
        match rng.u8(..8) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff, b'#', b'+'][rng.usize(..8)],
            2 => bytes[at] = bytes[at].wrapping_add(rng.u8(..5)).wrapping_sub(2),
            3 => bytes.insert(at, rng.u8(..)),
            4 => drop(bytes.remove(at)),
            5 => bytes.truncate(at),
            6 => {
                let end = rng.usize(at..=bytes.len().min(at + 16));
                bytes.extend_from_within(at..end);
            }
            _ => {
                let other = &corpus[rng.usize(..corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.usize(..=other.len())..]);
            }
        }
    }
    bytes
}

#[test]
fn mqtt_packet() {
    run("mqtt_packet", targets::mqtt_packet);
}

#[test]
fn mqtt_connect() {
    run("mqtt_connect", targets::mqtt_connect);
}

#[test]
fn reading() {
    run("reading", targets::reading);
}

/// A seed that is refused teaches a fuzzer nothing about what lies behind the refusal.
#[test]
fn every_seed_is_accepted() {
    for (name, bytes) in seeds::packets() {
        let version = if bytes[0] == 0 { mqtt::Version::V311 } else { mqtt::Version::V5 };
        let mut stream = &bytes[1..];
        while !stream.is_empty() {
            let frame = mqtt::next_frame(stream, usize::MAX).unwrap().unwrap();
            mqtt::decode(&frame, version).unwrap_or_else(|violation| panic!("{name}: {violation}"));
            stream = &stream[frame.bytes..];
        }
    }
    for (name, bytes) in seeds::connects() {
        let frame = mqtt::next_frame(&bytes, usize::MAX).unwrap().unwrap();
        assert_eq!(frame.bytes, bytes.len());
        mqtt::decode_connect(&frame).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for (name, bytes) in seeds::readings() {
        penstock_proto::check_reading(
            &bytes,
            targets::DEVICE,
            targets::RECEIVED_AT_MS,
            &penstock_proto::Limits::default(),
        )
        .unwrap_or_else(|invalid| panic!("{name}: {invalid}"));
    }
}

#[test]
#[ignore = "writes files: run it after a change of the seeds"]
fn write_the_corpus() {
    let all = [
        ("mqtt_packet", seeds::packets()),
        ("mqtt_connect", seeds::connects()),
        ("reading", seeds::readings()),
    ];
    for (target, seeds) in all {
        let folder = corpus_folder(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}
