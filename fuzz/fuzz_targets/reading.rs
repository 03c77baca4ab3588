//! `cargo +nightly fuzz run reading`; see [`penstock_fuzz::targets::reading`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_fuzz::targets::reading(data));
