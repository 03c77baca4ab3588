//! A producing client with a transactional id: its calls, and what became of its records.
#![allow(unsafe_code, reason = "errors, lists and group metadata pass through C structures")]

use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka_sys as rd;
use rdkafka_sys::types::RDKafkaType as Type;

use super::client::c_name;
use super::conf::Conf;
use super::list::List;
use super::{Client, Code, Content, TopicHandle, timeout_ms};
use crate::settings::Properties;
use crate::{GroupMetadata, KafkaError, TopicPartition};

/// Why a call of a transaction failed, with librdkafka's advice.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) why: String,
    pub(crate) is_fatal: bool,
    pub(crate) is_retriable: bool,
    pub(crate) requires_abort: bool,
}

/// The first record since the last [`TransactionClient::begin`] that could not be delivered. Callbacks write it, on the
/// thread that polls, inside of its calls.
#[derive(Default)]
struct Undelivered(Mutex<Option<(Code, String)>>);

/// A client of transactions. Its deliveries are looked at inside [`Self::poll`], [`Self::commit`] and [`Self::abort`].
pub(crate) struct TransactionClient {
    client: Arc<Client>,
    /// Behind the callback's opaque pointer, so it is freed after the client. Topics hold the client as well: whoever
    /// holds them drops them first.
    undelivered: Arc<Undelivered>,
}

impl TransactionClient {
    pub(crate) fn new(properties: &Properties) -> Result<Self, KafkaError> {
        let conf = Conf::new(properties)?;
        let undelivered = Arc::new(Undelivered::default());
        // SAFETY: a live configuration; the opaque pointer stays valid because `undelivered` outlives the client: it
        // is the last field that is dropped.
        unsafe {
            rd::rd_kafka_conf_set_opaque(conf.as_ptr(), Arc::as_ptr(&undelivered).cast_mut().cast());
            rd::rd_kafka_conf_set_dr_msg_cb(conf.as_ptr(), Some(on_delivery));
        }
        let client = Arc::new(Client::new(Type::RD_KAFKA_PRODUCER, conf)?);
        Ok(Self { client, undelivered })
    }

    pub(crate) fn topic(&self, name: &str) -> Result<TopicHandle, KafkaError> {
        TopicHandle::new(&self.client, name)
    }

    /// Queues a record. Never blocks. `topic` must be one of this client.
    pub(crate) fn produce(&self, topic: &TopicHandle, content: &Content<'_>) -> Result<(), Code> {
        topic.produce_plain(content)
    }

    /// The first record of the transaction that was not delivered, apart from those that an abort gave up.
    pub(crate) fn undelivered(&self) -> Option<(Code, String)> {
        self.undelivered.0.lock().clone()
    }

    /// The error after which this client is of no use any more.
    pub(crate) fn fatal(&self) -> Option<Failure> {
        let why = self.client.fatal_error()?;
        // SAFETY: a live client; no text is asked for.
        let code = Code::from(unsafe { rd::rd_kafka_fatal_error(self.client.as_ptr(), ptr::null_mut(), 0) });
        Some(Failure { code, why, is_fatal: true, is_retriable: false, requires_abort: false })
    }

    /// Looks at deliveries; waits for the first.
    pub(crate) fn poll(&self, timeout: Duration) {
        // SAFETY: a live client.
        unsafe { rd::rd_kafka_poll(self.client.as_ptr(), timeout_ms(timeout)) };
    }

    /// Gets the producer's epoch, which ends earlier producers of its transactional id.
    pub(crate) fn init(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: a live client; the error is ours.
        unsafe { check(rd::rd_kafka_init_transactions(self.client.as_ptr(), timeout_ms(timeout))) }
    }

    pub(crate) fn begin(&self) -> Result<(), Failure> {
        // What an abort gave up is not a failure of the transaction after it.
        self.poll(Duration::ZERO);
        *self.undelivered.0.lock() = None;
        // SAFETY: a live client; the error is ours.
        unsafe { check(rd::rd_kafka_begin_transaction(self.client.as_ptr())) }
    }

    /// Makes offsets part of the transaction. `list` failures come before anything was sent.
    pub(crate) fn send_offsets(
        &self,
        next_offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<Result<(), Failure>, KafkaError> {
        let list = List::with_offsets(next_offsets)?;
        let member = Member::new(group)?;
        // SAFETY: live handles, which the call copies; the error is ours.
        Ok(unsafe {
            check(rd::rd_kafka_send_offsets_to_transaction(
                self.client.as_ptr(),
                list.as_ptr(),
                member.0.as_ptr(),
                timeout_ms(timeout),
            ))
        })
    }

    pub(crate) fn commit(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: a live client; the error is ours.
        unsafe { check(rd::rd_kafka_commit_transaction(self.client.as_ptr(), timeout_ms(timeout))) }
    }

    pub(crate) fn abort(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: a live client; the error is ours.
        unsafe { check(rd::rd_kafka_abort_transaction(self.client.as_ptr(), timeout_ms(timeout))) }
    }
}

impl Client {
    /// The membership of a consuming client; `None` while it has none.
    pub(crate) fn group_metadata(&self) -> Option<GroupMetadata> {
        // SAFETY: a live client; null for one without a group.
        let member = unsafe { rd::rd_kafka_consumer_group_metadata(self.as_ptr()) };
        let member = Member(NonNull::new(member)?);
        // SAFETY: live metadata; its strings are terminated or null and live as long as it does.
        let metadata = unsafe {
            let metadata = member.0.as_ptr();
            let instance_id = super::text(rd::rd_kafka_consumer_group_metadata_group_instance_id(metadata));
            GroupMetadata {
                group: super::text(rd::rd_kafka_consumer_group_metadata_group_id(metadata)),
                generation: rd::rd_kafka_consumer_group_metadata_generation_id(metadata),
                member_id: super::text(rd::rd_kafka_consumer_group_metadata_member_id(metadata)),
                instance_id: (!instance_id.is_empty()).then_some(instance_id),
            }
        };
        // Kafka takes a transaction's offsets unchecked when they name no member.
        (metadata.generation >= 0 && !metadata.member_id.is_empty()).then_some(metadata)
    }
}

/// Owned group metadata of librdkafka.
struct Member(NonNull<rd::rd_kafka_consumer_group_metadata_t>);

impl Member {
    fn new(group: &GroupMetadata) -> Result<Self, KafkaError> {
        let what = "name a member of a group";
        let text = |text: &str| CString::new(text).map_err(|_| Code::INVALID_ARG.error(what));
        let (group_id, member_id) = (c_name(&group.group)?, text(&group.member_id)?);
        let instance_id = group.instance_id.as_deref().map(text).transpose()?;
        // SAFETY: terminated strings, or null where there is no instance id; they are copied.
        let member = unsafe {
            rd::rd_kafka_consumer_group_metadata_new_with_genid(
                group_id.as_ptr(),
                group.generation,
                member_id.as_ptr(),
                instance_id.as_ref().map_or(ptr::null(), |id| id.as_ptr()),
            )
        };
        NonNull::new(member).map(Self).ok_or_else(|| Code::INVALID_ARG.error(what))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) };
    }
}

/// Takes an error object of librdkafka over; `Ok` for a null pointer.
///
/// # Safety
/// `error` is null or an error object that nobody else frees.
unsafe fn check(error: *mut rd::rd_kafka_error_t) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a live error object, read before it is freed, and freed once.
    unsafe {
        let failure = Failure {
            code: Code::from(rd::rd_kafka_error_code(error)),
            why: super::text(rd::rd_kafka_error_string(error)),
            is_fatal: rd::rd_kafka_error_is_fatal(error) != 0,
            is_retriable: rd::rd_kafka_error_is_retriable(error) != 0,
            requires_abort: rd::rd_kafka_error_txn_requires_abort(error) != 0,
        };
        rd::rd_kafka_error_destroy(error);
        Err(failure)
    }
}

unsafe extern "C" fn on_delivery(
    _client: *mut rd::rd_kafka_t,
    message: *const rd::rd_kafka_message_t,
    opaque: *mut c_void,
) {
    // SAFETY: called by librdkafka with a message that lives as long as the call, and our opaque. The code is read as
    // the int that it is in C, see `Code`; the topic's name is terminated.
    unsafe {
        let code = Code((&raw const (*message).err).cast::<i32>().read());
        if code == Code::NONE || code.is_purged() {
            return;
        }
        let topic = super::text(rd::rd_kafka_topic_name((*message).rkt));
        let undelivered = &*opaque.cast_const().cast::<Undelivered>();
        undelivered.0.lock().get_or_insert_with(|| {
            (code, format!("a record for {topic}[{}]: {}", (*message).partition, code.words()))
        });
    }
}
