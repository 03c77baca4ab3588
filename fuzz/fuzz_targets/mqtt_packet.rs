//! `cargo +nightly fuzz run mqtt_packet`; see [`penstock_fuzz::targets::mqtt_packet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_fuzz::targets::mqtt_packet(data));
