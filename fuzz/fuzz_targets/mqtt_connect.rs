//! `cargo +nightly fuzz run mqtt_connect`; see [`penstock_fuzz::targets::mqtt_connect`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_fuzz::targets::mqtt_connect(data));
