//! Messages as librdkafka hands them out: their memory stays librdkafka's until they are destroyed.
#![allow(unsafe_code, reason = "messages are C structures")]

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use rdkafka_sys as rd;

use super::Code;

/// Messages in the order they came. Their memory is given back when they are cleared or dropped.
#[derive(Default)]
pub(crate) struct Messages(Vec<*mut rd::rd_kafka_message_t>);

// SAFETY: messages belong to whoever holds them, and may be destroyed from any thread.
unsafe impl Send for Messages {}

impl Messages {
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<Message<'_>> {
        // SAFETY: pointers in the list are live until it is cleared, which needs it exclusively.
        self.0
            .get(index)
            .and_then(|message| NonNull::new(*message))
            .map(|message| Message { message, of: PhantomData })
    }

    /// Destroys messages that `keep` does not want; the order stays.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Message<'_>) -> bool) {
        self.0.retain(|message| {
            let kept =
                NonNull::new(*message).is_some_and(|message| keep(Message { message, of: PhantomData }));
            if !kept {
                // SAFETY: live, owned, and taken off the list by this.
                unsafe { rd::rd_kafka_message_destroy(*message) };
            }
            kept
        });
    }

    pub(crate) fn clear(&mut self) {
        for message in self.0.drain(..) {
            // SAFETY: live and owned.
            unsafe { rd::rd_kafka_message_destroy(message) };
        }
    }

    /// Room for `count` more, for librdkafka to fill; see [`Self::filled`].
    pub(super) fn room(&mut self, count: usize) -> *mut *mut rd::rd_kafka_message_t {
        self.0.reserve(count);
        self.0.spare_capacity_mut().as_mut_ptr().cast()
    }

    /// # Safety
    /// librdkafka has written `count` messages to the room, and room for as many was reserved.
    pub(super) unsafe fn filled(&mut self, count: usize) {
        // SAFETY: as the caller promised.
        unsafe { self.0.set_len(self.0.len() + count) };
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A message: a record, or an error that concerns the consumer.
#[derive(Clone, Copy)]
pub(crate) struct Message<'m> {
    message: NonNull<rd::rd_kafka_message_t>,
    of: PhantomData<&'m Messages>,
}

impl<'m> Message<'m> {
    const fn fields(self) -> *const rd::rd_kafka_message_t {
        self.message.as_ptr()
    }

    /// [`Code::NONE`] for a record.
    pub(crate) fn code(self) -> Code {
        // SAFETY: a live message; the code is read as the int it is in C, see `Code`.
        Code(unsafe { (&raw const (*self.fields()).err).cast::<i32>().read() })
    }

    /// What an error message says.
    pub(crate) fn error_text(self) -> String {
        // SAFETY: a live message; librdkafka returns a terminated string or null.
        unsafe { super::text(rd::rd_kafka_message_errstr(self.fields())) }
    }

    /// Identifies the topic among messages of one client, without its name.
    pub(crate) fn topic_id(self) -> *const c_void {
        // SAFETY: a live message.
        unsafe { (*self.fields()).rkt.cast() }
    }

    /// Name of the topic; empty for errors without one.
    pub(crate) fn topic(self) -> &'m str {
        // SAFETY: the topic lives as long as the message, and its name is terminated. Kafka's topic names are ASCII.
        unsafe {
            let topic = (*self.fields()).rkt;
            if topic.is_null() {
                return "";
            }
            CStr::from_ptr(rd::rd_kafka_topic_name(topic)).to_str().unwrap_or_default()
        }
    }

    pub(crate) fn partition(self) -> i32 {
        // SAFETY: a live message.
        unsafe { (*self.fields()).partition }
    }

    pub(crate) fn offset(self) -> i64 {
        // SAFETY: a live message.
        unsafe { (*self.fields()).offset }
    }

    /// Milliseconds since the Unix epoch; -1 if there is none.
    pub(crate) fn timestamp_ms(self) -> i64 {
        // SAFETY: a live message; a null pointer for the kind of timestamp is allowed.
        unsafe { rd::rd_kafka_message_timestamp(self.fields(), ptr::null_mut()) }
    }

    pub(crate) fn key(self) -> Option<&'m [u8]> {
        // SAFETY: key and its length belong together and live as long as the message.
        unsafe { bytes((*self.fields()).key, (*self.fields()).key_len) }
    }

    pub(crate) fn payload(self) -> Option<&'m [u8]> {
        // SAFETY: payload and its length belong together and live as long as the message.
        unsafe { bytes((*self.fields()).payload, (*self.fields()).len) }
    }

    /// The headers in order; null values are empty, names that are not UTF-8 are left out.
    pub(crate) fn headers(self) -> Vec<(&'m str, &'m [u8])> {
        let mut found = Vec::new();
        let mut headers: *mut rd::rd_kafka_headers_t = ptr::null_mut();
        // SAFETY: a live message. Headers are parsed on first use and live as long as the message; `Message` is
        // neither Send nor Sync, so no other thread parses them at the same time.
        unsafe {
            let code = rd::rd_kafka_message_headers(self.fields(), &raw mut headers);
            if Code::from(code) != Code::NONE {
                return found;
            }
            for index in 0.. {
                let (mut name, mut value, mut size) = (ptr::null::<c_char>(), ptr::null::<c_void>(), 0);
                let code =
                    rd::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size);
                if Code::from(code) != Code::NONE {
                    break;
                }
                if let Ok(name) = CStr::from_ptr(name).to_str() {
                    found.push((name, bytes(value, size).unwrap_or_default()));
                }
            }
        }
        found
    }
}

/// # Safety
/// `start` is null or points to `len` bytes that live as long as `'m`.
const unsafe fn bytes<'m>(start: *const c_void, len: usize) -> Option<&'m [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: as the caller promised.
    Some(unsafe { std::slice::from_raw_parts(start.cast(), len) })
}
