//! A client's configuration while it is being built, and librdkafka's log lines.
#![allow(unsafe_code, reason = "librdkafka's configuration is a C object")]

use std::ffi::{CStr, CString, c_char, c_int};

use rdkafka_sys as rd;
use rdkafka_sys::types::RDKafkaConfRes as ConfRes;

use crate::KafkaError;
use crate::settings::{Properties, shown};

/// Owned configuration; given up to the client that is made from it.
pub(super) struct Conf(*mut rd::rd_kafka_conf_t);

impl Conf {
    /// Sets every property in order.
    pub(super) fn new(properties: &Properties) -> Result<Self, KafkaError> {
        // SAFETY: no arguments; librdkafka aborts when memory is exhausted.
        let conf = Self(unsafe { rd::rd_kafka_conf_new() });
        for (name, value) in properties {
            conf.set(name, value)?;
        }
        // SAFETY: the callback is a plain function with the signature librdkafka wants.
        unsafe { rd::rd_kafka_conf_set_log_cb(conf.0, Some(log)) };
        Ok(conf)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), KafkaError> {
        let refused =
            |why: String| KafkaError::Config { property: name.to_owned(), value: shown(name, value), why };
        let c_name = CString::new(name).map_err(|_| refused("its name has a NUL in it".into()))?;
        let c_value = CString::new(value).map_err(|_| refused("it has a NUL in it".into()))?;
        let mut why = [0 as c_char; 512];
        // SAFETY: both strings are terminated, and `why` is as long as it says.
        let result = unsafe {
            rd::rd_kafka_conf_set(self.0, c_name.as_ptr(), c_value.as_ptr(), why.as_mut_ptr(), why.len())
        };
        if result == ConfRes::RD_KAFKA_CONF_OK {
            return Ok(());
        }
        // SAFETY: librdkafka terminates what it writes, and the buffer began as zeros.
        Err(refused(unsafe { super::text(why.as_ptr()) }))
    }

    /// A property as it is set; empty if it is not.
    pub(super) fn get(&self, name: &CStr) -> CString {
        let mut size = 0;
        // SAFETY: a terminated name; without a buffer librdkafka says how large one must be.
        let read = |buffer: *mut c_char, size: &mut usize| unsafe {
            rd::rd_kafka_conf_get(self.0, name.as_ptr(), buffer, size) == ConfRes::RD_KAFKA_CONF_OK
        };
        if !read(std::ptr::null_mut(), &mut size) {
            return CString::default();
        }
        let mut value = vec![0_u8; size];
        if !read(value.as_mut_ptr().cast(), &mut size) {
            return CString::default();
        }
        CStr::from_bytes_until_nul(&value).map(CStr::to_owned).unwrap_or_default()
    }

    /// The configuration for calls that set callbacks.
    pub(super) const fn as_ptr(&self) -> *mut rd::rd_kafka_conf_t {
        self.0
    }

    /// Gives ownership up.
    pub(super) const fn into_raw(self) -> *mut rd::rd_kafka_conf_t {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: owned, and no client took it over.
        unsafe { rd::rd_kafka_conf_destroy(self.0) };
    }
}

/// Forwards a log line of librdkafka, from whichever of its threads it comes.
extern "C" fn log(
    _client: *const rd::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    // SAFETY: librdkafka passes terminated strings that live as long as this call.
    let (facility, line) = unsafe { (super::text(facility), super::text(line)) };
    match level {
        ..=3 => tracing::error!(target: "librdkafka", facility, "{line}"),
        4 => tracing::warn!(target: "librdkafka", facility, "{line}"),
        5 | 6 => tracing::info!(target: "librdkafka", facility, "{line}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}
