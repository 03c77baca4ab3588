//! Safe wrappers over librdkafka: the only folder with unsafe code.
//!
//! Nothing here decides anything: it owns handles, passes memory in and out, and turns callbacks into values.

mod admin;
mod beside;
mod client;
mod conf;
mod error;
mod group;
mod lifeline;
mod list;
mod message;
mod producer;
mod transactions;

pub(crate) use admin::{TopicInfo, TopicOutcome};
pub(crate) use beside::EndsBeside;
pub(crate) use client::{Client, Queue};
pub(crate) use error::Code;
pub(crate) use group::{GroupClient, Rebalance};
pub(crate) use list::PartitionOffset;
pub(crate) use message::{Message, Messages};
pub(crate) use producer::{Content, Event, TopicHandle};
pub(crate) use transactions::{Failure, TransactionClient};

use std::ffi::{CStr, c_char, c_int};
use std::time::Duration;

/// Milliseconds for librdkafka; rounded up, so that a short wait is no busy loop.
fn timeout_ms(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// A C string as text; empty for a null pointer.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string.
#[allow(unsafe_code, reason = "strings of librdkafka are C strings")]
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and terminated as the caller promised.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
