//! Nanoseconds to decode one PUBLISH: our codec against rumqttc's, on the same bytes.
//!
//! `cargo run --release -p penstock-gateway --example codec_bench`
//!
//! A round decodes a buffer of 1,000 packets (a 54-byte topic, a 46-byte payload) from its start to its end. The best
//! and the median round are printed; copying the buffer for rumqttc, which consumes it, is not counted.
#![allow(clippy::unwrap_used, reason = "a benchmark of packets that are known to be valid")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use penstock_gateway::mqtt::{Packet, Version, decode, next_frame};
use rumqttc::mqttbytes::{QoS as QoS4, v4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

const PACKETS: u32 = 1_000;
const ROUNDS: usize = 2_000;
const TOPIC: &str = "devices/018f4e9a-6d2b-7c51-9a3e-5b1f0c7d2e44/readings";
const PAYLOAD: [u8; 46] = [0x2a; 46];

fn main() {
    println!("{:<28} {:>22} {:>22}", "ns a PUBLISH: best (median)", "penstock", "rumqttc");
    let stream = stream_v4();
    row("MQTT 3.1.1, QoS 1", || ours(&stream, Version::V311), || theirs_v4(&stream));
    let stream = stream_v5(None);
    row("MQTT 5, QoS 1", || ours(&stream, Version::V5), || theirs_v5(&stream));
    let properties = v5::PublishProperties {
        message_expiry_interval: Some(3600),
        user_properties: vec![("firmware".into(), "1.4.2".into())],
        ..Default::default()
    };
    let stream = stream_v5(Some(&properties));
    row("MQTT 5, QoS 1, 2 properties", || ours(&stream, Version::V5), || theirs_v5(&stream));
}

/// Alternates the two, so that both see the same machine.
fn row(name: &str, ours: impl Fn() -> Duration, theirs: impl Fn() -> Duration) {
    let mut rounds: Vec<(Duration, Duration)> = (0..ROUNDS).map(|_| (ours(), theirs())).collect();
    let mut figures = |of: fn(&(Duration, Duration)) -> Duration| {
        rounds.sort_by_key(of);
        let ns = |round: usize| of(&rounds[round]).as_secs_f64() * 1e9 / f64::from(PACKETS);
        format!("{:.1} ({:.1})", ns(0), ns(ROUNDS / 2))
    };
    println!("{name:<28} {:>22} {:>22}", figures(|round| round.0), figures(|round| round.1));
}

fn ours(stream: &[u8], version: Version) -> Duration {
    let start = Instant::now();
    let mut rest = black_box(stream);
    let mut payload_bytes = 0;
    while let Some(frame) = next_frame(rest, 1 << 20).unwrap() {
        if let Packet::Publish(publish) = black_box(decode(&frame, version)).unwrap() {
            payload_bytes += publish.payload.len();
        }
        rest = &rest[frame.bytes..];
    }
    assert_eq!(payload_bytes, PAYLOAD.len() * PACKETS as usize);
    start.elapsed()
}

fn theirs_v4(stream: &[u8]) -> Duration {
    let mut rest = BytesMut::from(stream);
    let start = Instant::now();
    let mut payload_bytes = 0;
    while !rest.is_empty() {
        if let v4::Packet::Publish(publish) = black_box(v4::Packet::read(&mut rest, 1 << 20)).unwrap() {
            payload_bytes += publish.payload.len();
        }
    }
    assert_eq!(payload_bytes, PAYLOAD.len() * PACKETS as usize);
    start.elapsed()
}

fn theirs_v5(stream: &[u8]) -> Duration {
    let mut rest = BytesMut::from(stream);
    let start = Instant::now();
    let mut payload_bytes = 0;
    while !rest.is_empty() {
        if let v5::Packet::Publish(publish) = black_box(v5::Packet::read(&mut rest, Some(1 << 20))).unwrap() {
            payload_bytes += publish.payload.len();
        }
    }
    assert_eq!(payload_bytes, PAYLOAD.len() * PACKETS as usize);
    start.elapsed()
}

fn packet_ids() -> impl Iterator<Item = u16> {
    (1..=u16::MAX).cycle().take(PACKETS as usize)
}

fn stream_v4() -> Vec<u8> {
    let mut out = BytesMut::new();
    for pkid in packet_ids() {
        let publish = v4::Publish { pkid, ..v4::Publish::new(TOPIC, QoS4::AtLeastOnce, PAYLOAD) };
        publish.write(&mut out).unwrap();
    }
    out.to_vec()
}

fn stream_v5(properties: Option<&v5::PublishProperties>) -> Vec<u8> {
    let mut out = BytesMut::new();
    for pkid in packet_ids() {
        let payload = Bytes::from_static(&PAYLOAD);
        let publish = v5::Publish::new(TOPIC, QoS5::AtLeastOnce, payload, properties.cloned());
        v5::Publish { pkid, ..publish }.write(&mut out).unwrap();
    }
    out.to_vec()
}
