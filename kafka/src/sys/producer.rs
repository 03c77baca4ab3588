//! Sending records, and what comes back for them.
#![allow(unsafe_code, reason = "records and deliveries pass through C structures")]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as rd;
use rdkafka_sys::types::RDKafkaType as Type;
use rdkafka_sys::{rd_kafka_vtype_t as Kind, rd_kafka_vu_s__bindgen_ty_1 as Value};

use super::client::c_name;
use super::conf::Conf;
use super::{Client, Code, Queue, timeout_ms};
use crate::receipt::Shared;
use crate::settings::Properties;
use crate::{Completion, KafkaError, Outgoing};

/// Let librdkafka choose the partition.
const PARTITION_UNASSIGNED: i32 = -1;

/// A topic of one client.
pub(crate) struct TopicHandle {
    topic: NonNull<rd::rd_kafka_topic_t>,
    client: Arc<Client>,
}

// SAFETY: topic handles are locked inside librdkafka.
unsafe impl Send for TopicHandle {}
// SAFETY: as above.
unsafe impl Sync for TopicHandle {}

/// What librdkafka copies of a record.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a> {
    pub(crate) key: Option<&'a [u8]>,
    /// `None`: a tombstone.
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) headers: &'a [(&'a str, &'a [u8])],
    pub(crate) partition: Option<i32>,
}

/// What happened to a client.
pub(crate) enum Event {
    /// A record's delivery ended.
    Delivery(Completion, Result<(), Code>),
    /// Something else went wrong.
    Error { code: Code, why: String, fatal: bool },
}

impl Client {
    /// Starts a producer whose deliveries and errors wait in its main queue.
    pub(crate) fn producer(properties: &Properties) -> Result<Self, KafkaError> {
        let conf = Conf::new(properties)?;
        // SAFETY: a live configuration.
        unsafe {
            rd::rd_kafka_conf_set_events(conf.as_ptr(), rd::RD_KAFKA_EVENT_DR | rd::RD_KAFKA_EVENT_ERROR)
        };
        Self::new(Type::RD_KAFKA_PRODUCER, conf)
    }

    /// Gives every outstanding record up; each still comes out of the queue, as an error.
    pub(crate) fn purge(&self) {
        // SAFETY: a live client; the call waits for broker threads, which never wait for the caller.
        unsafe {
            rd::rd_kafka_purge(self.as_ptr(), rd::RD_KAFKA_PURGE_F_QUEUE | rd::RD_KAFKA_PURGE_F_INFLIGHT)
        };
    }
}

impl TopicHandle {
    /// Looks a topic up, without asking a broker.
    pub(crate) fn new(client: &Arc<Client>, name: &str) -> Result<Self, KafkaError> {
        if name.is_empty() {
            return Err(Code::INVALID_ARG.error("use a topic without a name"));
        }
        let c_name = c_name(name)?;
        // SAFETY: a live client and a terminated name; a null configuration means the client's defaults.
        let topic = unsafe { rd::rd_kafka_topic_new(client.as_ptr(), c_name.as_ptr(), ptr::null_mut()) };
        NonNull::new(topic)
            .map(|topic| Self { topic, client: Arc::clone(client) })
            .ok_or_else(|| Code::INVALID_ARG.error(&format!("use topic {name:?}")))
    }

    /// Queues a record; the completion comes back as a delivery, or at once with an error. Never blocks.
    pub(crate) fn produce(
        &self,
        record: &Outgoing<'_>,
        completion: Completion,
    ) -> Result<(), (Completion, Code)> {
        let content = Content {
            key: record.key,
            payload: Some(record.payload),
            timestamp_ms: record.timestamp_ms,
            headers: record.headers,
            partition: record.partition,
        };
        let opaque = into_opaque(completion);
        // SAFETY: not queued, so the opaque was not taken back.
        self.queue(&content, opaque).map_err(|code| (unsafe { from_opaque(opaque) }, code))
    }

    /// Queues a record of a client whose deliveries have no completions. Never blocks.
    pub(super) fn produce_plain(&self, content: &Content<'_>) -> Result<(), Code> {
        self.queue(content, ptr::null_mut())
    }

    fn queue(&self, record: &Content<'_>, opaque: *mut c_void) -> Result<(), Code> {
        let headers = Headers::new(record.headers)?;
        let mut arguments = Arguments::new();
        arguments.push(Kind::RD_KAFKA_VTYPE_RKT, Value { rkt: self.topic.as_ptr() });
        let partition = record.partition.unwrap_or(PARTITION_UNASSIGNED);
        arguments.push(Kind::RD_KAFKA_VTYPE_PARTITION, Value { i32_: partition });
        // librdkafka reads from these and copies; the C interface has no const.
        if let Some(payload) = record.payload {
            arguments.push(Kind::RD_KAFKA_VTYPE_VALUE, memory(payload));
        }
        if let Some(key) = record.key {
            arguments.push(Kind::RD_KAFKA_VTYPE_KEY, memory(key));
        }
        if let Some(timestamp_ms) = record.timestamp_ms {
            arguments.push(Kind::RD_KAFKA_VTYPE_TIMESTAMP, Value { i64_: timestamp_ms });
        }
        if let Some(headers) = &headers {
            arguments.push(Kind::RD_KAFKA_VTYPE_HEADERS, Value { headers: headers.0 });
        }
        arguments.push(Kind::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: rd::RD_KAFKA_MSG_F_COPY });
        arguments.push(Kind::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: opaque });
        // SAFETY: the first `len` arguments are initialized; what they point to outlives the call, and everything is
        // copied by it. On success librdkafka owns `opaque` and the headers, on failure they are still ours.
        unsafe {
            let error =
                rd::rd_kafka_produceva(self.client.as_ptr(), arguments.items.as_ptr().cast(), arguments.len);
            if error.is_null() {
                std::mem::forget(headers);
                return Ok(());
            }
            // After a fatal error the code is the one of its cause.
            let is_fatal = rd::rd_kafka_error_is_fatal(error) != 0;
            let code = if is_fatal { Code::FATAL } else { Code::from(rd::rd_kafka_error_code(error)) };
            rd::rd_kafka_error_destroy(error);
            Err(code)
        }
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: owned, and the client is still alive.
        unsafe { rd::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

impl Queue {
    /// Waits for events, then passes on every one that is there without waiting again. Returns how many records'
    /// deliveries were among them.
    pub(crate) fn drain(&self, timeout: Duration, mut each: impl FnMut(Event)) -> usize {
        let mut deliveries = 0;
        let mut wait_ms = timeout_ms(timeout);
        loop {
            // SAFETY: a live queue.
            let event = unsafe { rd::rd_kafka_queue_poll(self.as_ptr(), wait_ms) };
            if event.is_null() {
                return deliveries;
            }
            wait_ms = 0;
            // SAFETY: a live event of this queue, destroyed once, after its last use.
            unsafe {
                match rd::rd_kafka_event_type(event) {
                    rd::RD_KAFKA_EVENT_DR => deliveries += pass_deliveries(event, &mut each),
                    rd::RD_KAFKA_EVENT_ERROR => each(Event::Error {
                        code: Code::from(rd::rd_kafka_event_error(event)),
                        why: super::text(rd::rd_kafka_event_error_string(event)),
                        fatal: rd::rd_kafka_event_error_is_fatal(event) != 0,
                    }),
                    _ => {}
                }
                rd::rd_kafka_event_destroy(event);
            }
        }
    }
}

/// # Safety
/// `event` is a live event of deliveries.
unsafe fn pass_deliveries(event: *mut rd::rd_kafka_event_t, each: &mut impl FnMut(Event)) -> usize {
    let mut count = 0;
    loop {
        // SAFETY: a message is valid until the event is destroyed; its code is read as the int it is in C; the
        // opaque is what `produce` gave, and a delivery comes once.
        unsafe {
            let message = rd::rd_kafka_event_message_next(event);
            if message.is_null() {
                return count;
            }
            let code = Code((&raw const (*message).err).cast::<i32>().read());
            each(Event::Delivery(from_opaque((*message)._private), code.check()));
        }
        count += 1;
    }
}

fn into_opaque(completion: Completion) -> *mut c_void {
    completion.into_shared().map_or(ptr::null(), Arc::into_raw).cast_mut().cast()
}

/// # Safety
/// `opaque` came from [`into_opaque`] and is taken back for the first time.
unsafe fn from_opaque(opaque: *mut c_void) -> Completion {
    let shared = opaque.cast_const().cast::<Shared>();
    // SAFETY: made by `Arc::into_raw`, if not null.
    Completion::from_shared((!shared.is_null()).then(|| unsafe { Arc::from_raw(shared) }))
}

const fn memory(bytes: &[u8]) -> Value {
    let ptr = bytes.as_ptr().cast_mut().cast();
    Value { mem: rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr, size: bytes.len() } }
}

/// Arguments of one `rd_kafka_produceva`, on the stack.
struct Arguments {
    items: [MaybeUninit<rd::rd_kafka_vu_t>; 8],
    len: usize,
}

impl Arguments {
    const fn new() -> Self {
        Self { items: [const { MaybeUninit::uninit() }; 8], len: 0 }
    }

    const fn push(&mut self, vtype: Kind, u: Value) {
        self.items[self.len].write(rd::rd_kafka_vu_t { vtype, u });
        self.len += 1;
    }
}

/// Headers that no record has taken over yet.
struct Headers(*mut rd::rd_kafka_headers_t);

impl Headers {
    fn new(headers: &[(&str, &[u8])]) -> Result<Option<Self>, Code> {
        if headers.is_empty() {
            return Ok(None);
        }
        // SAFETY: no pointers go in.
        let list = Self(unsafe { rd::rd_kafka_headers_new(headers.len()) });
        for (name, value) in headers {
            let (Ok(name_size), Ok(value_size)) = (isize::try_from(name.len()), isize::try_from(value.len()))
            else {
                return Err(Code::INVALID_ARG);
            };
            // SAFETY: a live list; name and value are as long as they say and copied.
            let code = unsafe {
                rd::rd_kafka_header_add(
                    list.0,
                    name.as_ptr().cast(),
                    name_size,
                    value.as_ptr().cast(),
                    value_size,
                )
            };
            Code::from(code).check()?;
        }
        Ok(Some(list))
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: owned, and no record took it over.
        unsafe { rd::rd_kafka_headers_destroy(self.0) };
    }
}
