//! A librdkafka client and its queues.
#![allow(unsafe_code, reason = "librdkafka's handles are pointers")]

use std::ffi::{CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as rd;
use rdkafka_sys::types::RDKafkaType as Type;

use super::conf::Conf;
use super::lifeline::Lifeline;
use super::{Code, timeout_ms};
use crate::KafkaError;

/// An owned client. Destroying it waits for librdkafka's threads, so the last owner should not be an async task.
pub(crate) struct Client {
    client: NonNull<rd::rd_kafka_t>,
    /// Behind a callback's opaque pointer, so it is freed after librdkafka's client.
    lifeline: Lifeline,
}

// SAFETY: librdkafka's handle is made to be used from any thread, several at a time.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    /// Starts a client; no connection is waited for.
    pub(super) fn new(kind: Type, conf: Conf) -> Result<Self, KafkaError> {
        let mut why = [0 as c_char; 512];
        let lifeline = Lifeline::new(&conf)?;
        let conf = conf.into_raw();
        // SAFETY: `conf` is owned by this call, `why` is as long as it says.
        let client = unsafe { rd::rd_kafka_new(kind, conf, why.as_mut_ptr(), why.len()) };
        let client = NonNull::new(client).ok_or_else(|| {
            // SAFETY: after a failure the configuration is still ours.
            unsafe { rd::rd_kafka_conf_destroy(conf) };
            KafkaError::Config {
                property: "kafka".into(),
                value: String::new(),
                // SAFETY: librdkafka terminates what it writes, and the buffer began as zeros.
                why: unsafe { super::text(why.as_ptr()) },
            }
        })?;
        let mut client = Self { client, lifeline };
        client.lifeline.start(client.client)?;
        Ok(client)
    }

    pub(super) const fn as_ptr(&self) -> *mut rd::rd_kafka_t {
        self.client.as_ptr()
    }

    /// The error after which this client is of no use any more.
    pub(crate) fn fatal_error(&self) -> Option<String> {
        let mut why = [0 as c_char; 512];
        // SAFETY: a live client, and `why` is as long as it says.
        let code =
            Code::from(unsafe { rd::rd_kafka_fatal_error(self.as_ptr(), why.as_mut_ptr(), why.len()) });
        // SAFETY: librdkafka terminates what it writes, and the buffer began as zeros.
        code.check().err().map(|code| format!("{} ({})", unsafe { super::text(why.as_ptr()) }, code.name()))
    }

    /// Makes the client believe that it met a fatal error, for fault tests.
    pub(crate) fn inject_fatal_error(&self) {
        const WHY: &std::ffi::CStr = c"injected by a test";
        let code = rd::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        // SAFETY: a live client and a static string.
        unsafe { rd::rd_kafka_test_fatal_error(self.as_ptr(), code, WHY.as_ptr()) };
    }

    /// The partitions of a topic, asked from a broker.
    pub(crate) fn partitions(&self, topic: &str, timeout: Duration) -> Result<Vec<i32>, KafkaError> {
        let c_topic = c_name(topic)?;
        let what = format!("describe topic {topic}");
        // SAFETY: a live client and a terminated name; a null configuration means the defaults.
        let handle = unsafe { rd::rd_kafka_topic_new(self.as_ptr(), c_topic.as_ptr(), ptr::null_mut()) };
        if handle.is_null() {
            return Err(Code::INVALID_ARG.error(&what));
        }
        let mut found: *const rd::rd_kafka_metadata = ptr::null();
        // SAFETY: live handles; `found` is written only on success and freed below.
        unsafe {
            let code = rd::rd_kafka_metadata(self.as_ptr(), 0, handle, &raw mut found, timeout_ms(timeout));
            rd::rd_kafka_topic_destroy(handle);
            Code::from(code).check().map_err(|code| code.error(&what))?;
            let result = first_topic(&*found);
            rd::rd_kafka_metadata_destroy(found);
            result.map_err(|code| code.error(&what))
        }
    }

    /// Lowest and next offset of a partition, asked from its leader.
    pub(crate) fn watermarks(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<(i64, i64), KafkaError> {
        let c_topic = c_name(topic)?;
        let (mut low, mut high) = (0_i64, 0_i64);
        // SAFETY: a live client, a terminated name, and two numbers to write to.
        let code = unsafe {
            rd::rd_kafka_query_watermark_offsets(
                self.as_ptr(),
                c_topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
                timeout_ms(timeout),
            )
        };
        Code::from(code)
            .check()
            .map(|()| (low, high))
            .map_err(|code| code.error(&format!("ask for the offsets of {topic}[{partition}]")))
    }

    /// Watermarks as they were in the latest fetch; `None` before it.
    pub(crate) fn cached_watermarks(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let c_topic = CString::new(topic).ok()?;
        let (mut low, mut high) = (0_i64, 0_i64);
        // SAFETY: as in `watermarks`.
        let code = unsafe {
            rd::rd_kafka_get_watermark_offsets(
                self.as_ptr(),
                c_topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (Code::from(code) == Code::NONE && high >= 0).then_some((low.max(0), high))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.lifeline.end();
        // SAFETY: the last use; the lifeline's thread has ended; queues and topics hold an Arc of the client, so they are gone.
        unsafe { rd::rd_kafka_destroy(self.as_ptr()) };
    }
}

/// # Safety
/// `metadata` came from librdkafka and is not freed yet.
unsafe fn first_topic(metadata: &rd::rd_kafka_metadata) -> Result<Vec<i32>, Code> {
    if metadata.topic_cnt < 1 {
        return Err(Code::UNKNOWN_TOPIC);
    }
    // SAFETY: there is at least one topic, with as many partitions as it says.
    unsafe {
        let topic = &*metadata.topics;
        Code::from(topic.err).check()?;
        let count = usize::try_from(topic.partition_cnt).unwrap_or(0);
        if count == 0 {
            return Ok(Vec::new());
        }
        let partitions = std::slice::from_raw_parts(topic.partitions, count);
        Ok(partitions.iter().map(|found| found.id).collect())
    }
}

/// A topic's name for librdkafka.
pub(super) fn c_name(topic: &str) -> Result<CString, KafkaError> {
    CString::new(topic).map_err(|_| Code::INVALID_ARG.error("a topic's name has a NUL in it"))
}

/// A queue of a client.
pub(crate) struct Queue {
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// Kept alive: the queue is destroyed before its client.
    _client: Arc<Client>,
}

// SAFETY: queues are locked inside librdkafka.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// The queue of a client's own events: deliveries and errors.
    pub(crate) fn main(client: &Arc<Client>) -> Option<Self> {
        // SAFETY: a live client.
        Self::own(unsafe { rd::rd_kafka_queue_get_main(client.as_ptr()) }, client)
    }

    /// The queue that all records and rebalances of a group member come through.
    pub(super) fn consumer(client: &Arc<Client>) -> Option<Self> {
        // SAFETY: a live client.
        Self::own(unsafe { rd::rd_kafka_queue_get_consumer(client.as_ptr()) }, client)
    }

    /// A queue for the answers to one call.
    pub(super) fn fresh(client: &Arc<Client>) -> Option<Self> {
        // SAFETY: a live client.
        Self::own(unsafe { rd::rd_kafka_queue_new(client.as_ptr()) }, client)
    }

    fn own(queue: *mut rd::rd_kafka_queue_t, client: &Arc<Client>) -> Option<Self> {
        NonNull::new(queue).map(|queue| Self { queue, _client: Arc::clone(client) })
    }

    pub(super) const fn as_ptr(&self) -> *mut rd::rd_kafka_queue_t {
        self.queue.as_ptr()
    }

    /// Ends a wait on this queue, now or the next one.
    pub(crate) fn wake(&self) {
        // SAFETY: a live queue.
        unsafe { rd::rd_kafka_queue_yield(self.as_ptr()) };
    }

    /// Runs callbacks that are due; waits for the first.
    pub(super) fn serve(&self, timeout: Duration) -> c_int {
        // SAFETY: a live queue.
        unsafe { rd::rd_kafka_queue_poll_callback(self.as_ptr(), timeout_ms(timeout)) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: owned, and the client is still alive.
        unsafe { rd::rd_kafka_queue_destroy(self.as_ptr()) };
    }
}
