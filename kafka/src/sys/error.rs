//! librdkafka's error codes.
#![allow(unsafe_code, reason = "names of codes come from librdkafka")]

use std::ffi::{c_char, c_int};

use rdkafka_sys as rd;
use rdkafka_sys::types::RDKafkaRespErr as Err;

use crate::KafkaError;

/// An error code as a plain number: a broker may be newer than librdkafka's enumeration and send one that is not in
/// it, which must not become a value of a Rust enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_int);

#[allow(
    clashing_extern_declarations,
    reason = "the same functions, taking the code as the int that it is in C"
)]
unsafe extern "C" {
    safe fn rd_kafka_err2name(code: c_int) -> *const c_char;
    safe fn rd_kafka_err2str(code: c_int) -> *const c_char;
}

impl Code {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const ASSIGN: Self = Self(Err::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS as c_int);
    pub(crate) const FATAL: Self = Self(Err::RD_KAFKA_RESP_ERR__FATAL as c_int);
    pub(crate) const PARTITION_EOF: Self = Self(Err::RD_KAFKA_RESP_ERR__PARTITION_EOF as c_int);
    pub(crate) const QUEUE_FULL: Self = Self(Err::RD_KAFKA_RESP_ERR__QUEUE_FULL as c_int);
    pub(crate) const INVALID_ARG: Self = Self(Err::RD_KAFKA_RESP_ERR__INVALID_ARG as c_int);
    pub(crate) const ALL_BROKERS_DOWN: Self = Self(Err::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as c_int);
    pub(crate) const TOPIC_EXISTS: Self = Self(Err::RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS as c_int);
    pub(crate) const UNKNOWN_TOPIC: Self = Self(Err::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as c_int);
    pub(crate) const UNKNOWN_PARTITION: Self = Self(Err::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION as c_int);
    pub(crate) const TOO_FEW_BROKERS: Self = Self(Err::RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR as c_int);
    /// What librdkafka makes of every answer that a newer producer has this one's transactional id.
    pub(crate) const FENCED: Self = Self(Err::RD_KAFKA_RESP_ERR__FENCED as c_int);
    /// A call that the state of the client does not allow.
    pub(crate) const STATE: Self = Self(Err::RD_KAFKA_RESP_ERR__STATE as c_int);
    pub(crate) const TIMED_OUT: Self = Self(Err::RD_KAFKA_RESP_ERR__TIMED_OUT as c_int);

    /// `Ok` for no error.
    pub(crate) const fn check(self) -> Result<(), Self> {
        if self.0 == 0 { Ok(()) } else { Err(self) }
    }

    /// Name of the code, such as `_TRANSPORT`.
    pub(crate) fn name(self) -> String {
        // SAFETY: librdkafka returns static strings, also for codes it does not know.
        unsafe { super::text(rd_kafka_err2name(self.0)) }
    }

    /// The code in words.
    pub(crate) fn words(self) -> String {
        // SAFETY: as above; strings of unknown codes live in thread-local buffers.
        unsafe { super::text(rd_kafka_err2str(self.0)) }
    }

    /// Whether the record was too large for this client or for the topic.
    pub(crate) const fn is_too_large(self) -> bool {
        self.0 == Err::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE as c_int
    }

    /// Whether time ran out, here or at the broker.
    pub(crate) const fn is_timeout(self) -> bool {
        self.0 == Err::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR__TIMED_OUT as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as c_int
    }

    /// Whether the client gave the record up because it was told to.
    pub(crate) const fn is_purged(self) -> bool {
        self.0 == Err::RD_KAFKA_RESP_ERR__PURGE_QUEUE as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR__DESTROY as c_int
    }

    /// Whether a newer producer has the transactional id, or the coordinator took it back.
    pub(crate) fn is_fenced(self) -> bool {
        self == Self::FENCED
            || self.0 == Err::RD_KAFKA_RESP_ERR_PRODUCER_FENCED as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH as c_int
    }

    /// Whether a membership of a consumer group is over.
    pub(crate) const fn is_group_fenced(self) -> bool {
        self.0 == Err::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID as c_int
            || self.0 == Err::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID as c_int
    }

    /// Whether the same call can succeed later without anybody changing anything.
    pub(crate) fn is_retriable(self) -> bool {
        const RETRIABLE: &[Err] = &[
            Err::RD_KAFKA_RESP_ERR__TRANSPORT,
            Err::RD_KAFKA_RESP_ERR__RESOLVE,
            Err::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
            Err::RD_KAFKA_RESP_ERR__QUEUE_FULL,
            Err::RD_KAFKA_RESP_ERR__WAIT_COORD,
            Err::RD_KAFKA_RESP_ERR__IN_PROGRESS,
            Err::RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS,
            Err::RD_KAFKA_RESP_ERR__RETRY,
            Err::RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED,
            Err::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            Err::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            Err::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Err::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
            Err::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
            Err::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
            Err::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            Err::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
            Err::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
            Err::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            Err::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            Err::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
            Err::RD_KAFKA_RESP_ERR_NOT_CONTROLLER,
            Err::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            Err::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
            Err::RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT,
            Err::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
        ];
        self.is_timeout() || RETRIABLE.iter().any(|code| *code as c_int == self.0)
    }

    /// This code as an error; `why` in front of librdkafka's words.
    pub(crate) fn error(self, what: &str) -> KafkaError {
        KafkaError::Client {
            code: self.name(),
            why: format!("{what}: {}", self.words()),
            retriable: self.is_retriable(),
            fatal: self == Self::FATAL,
        }
    }
}

impl From<rd::types::RDKafkaRespErr> for Code {
    fn from(code: rd::types::RDKafkaRespErr) -> Self {
        Self(code as c_int)
    }
}

/// Takes an error object of librdkafka over; `None` for a null pointer.
///
/// # Safety
/// `error` is null or an error object that nobody else frees.
pub(super) unsafe fn take(error: *mut rd::rd_kafka_error_t, what: &str) -> Option<(Code, KafkaError)> {
    if error.is_null() {
        return None;
    }
    // SAFETY: a live error object, read before it is freed, and freed once.
    unsafe {
        let code = Code::from(rd::rd_kafka_error_code(error));
        let taken = KafkaError::Client {
            code: code.name(),
            why: format!("{what}: {}", super::text(rd::rd_kafka_error_string(error))),
            retriable: rd::rd_kafka_error_is_retriable(error) != 0 || code.is_retriable(),
            fatal: rd::rd_kafka_error_is_fatal(error) != 0,
        };
        rd::rd_kafka_error_destroy(error);
        Some((code, taken))
    }
}

/// Like [`take`], as a result.
///
/// # Safety
/// As for [`take`].
pub(super) unsafe fn check(error: *mut rd::rd_kafka_error_t, what: &str) -> Result<(), KafkaError> {
    // SAFETY: as the caller promised.
    unsafe { take(error, what) }.map_or(Ok(()), |(_, error)| Err(error))
}
