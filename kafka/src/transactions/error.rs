//! Why a transaction's call failed, as the thing to do next.

use crate::sys::{Code, Failure};
use crate::{DeliveryError, KafkaError};

/// A call of a transaction failed. Each variant is one thing to do next.
///
/// | variant | next |
/// |---|---|
/// | `Invalid`, `OutOfOrder` | correct the caller; nothing was done |
/// | `Record` | leave the record out, or abort; the transaction can go on without it |
/// | `Retry` | make the same call again |
/// | `Abortable` | abort, then do the whole again |
/// | `GroupFenced` | abort, and do not do it again: the partitions are another member's |
/// | `Fenced` | drop the producer; somebody else has its transactional id |
/// | `Fatal` | drop the producer and open another |
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// A setting or an argument is not one that can be used. Nothing was done.
    #[error(transparent)]
    Invalid(#[from] KafkaError),
    /// A call that does not fit what was done before, for example sending after a commit was begun. Nothing was done.
    #[error("a transaction's calls are out of order: {0}")]
    OutOfOrder(&'static str),
    /// This record cannot be part of any transaction; it is not part of this one, which can go on without it.
    #[error("a record is not taken into the transaction: {0}")]
    Record(DeliveryError),
    /// Kafka did not answer in time or is not ready. Make the same call again, with the same arguments; commits and
    /// aborts then go on from where they are.
    #[error("Kafka is not done with it yet: {why} ({code}); make the same call again")]
    Retry {
        /// Name of the error, such as `_TIMED_OUT` or `COORDINATOR_NOT_AVAILABLE`.
        code: String,
        /// The error in words.
        why: String,
    },
    /// This transaction can only be aborted; nothing of it becomes visible. The whole can be done again after that.
    ///
    /// After a record was refused (`delivery`), librdkafka notices the gap in its sequence numbers only in the next
    /// transaction, and that fails once in this way too, with `OUT_OF_ORDER_SEQUENCE_NUMBER`; the one after it is fine.
    #[error("the transaction failed and has to be aborted: {why} ({code})")]
    Abortable {
        /// Name of the error.
        code: String,
        /// The error in words.
        why: String,
        /// The first record that could not be delivered, if that is why. If it
        /// [is permanent](DeliveryError::is_permanent), the same records fail again.
        delivery: Option<DeliveryError>,
    },
    /// The membership that sent the offsets is over: another member has its partitions, or is about to. This
    /// transaction can only be aborted; nothing of it becomes visible. The producer itself is still good.
    #[error(
        "the consumer group gave the partitions to another member; abort, and give them up: {why} ({code})"
    )]
    GroupFenced {
        /// `ILLEGAL_GENERATION`, `UNKNOWN_MEMBER_ID` or `FENCED_INSTANCE_ID`.
        code: String,
        /// The error in words.
        why: String,
    },
    /// Another producer was opened with the transactional id; or the coordinator aborted the transaction because it
    /// was open for longer than its timeout, which Kafka tells in the same way. This producer is of no use any more.
    ///
    /// From any call but a commit this means that the transaction is aborted. What it means from a commit is said at
    /// [`crate::Transaction::commit`].
    #[error(
        "another producer has the transactional id, or the transaction was open for too long: {why} ({code})"
    )]
    Fenced {
        /// Name of the error, mostly `_FENCED`.
        code: String,
        /// The error in words.
        why: String,
    },
    /// The producer cannot go on. Drop it and open another: that aborts what is open, and completes a commit that the
    /// coordinator had accepted.
    #[error("the producer of transactions has to be replaced: {why} ({code})")]
    Fatal {
        /// Name of the error.
        code: String,
        /// The error in words.
        why: String,
    },
}

impl TransactionError {
    /// The name in logs and metric labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Retry { .. } => "not_ready",
            Self::Abortable { .. } => "aborted",
            Self::GroupFenced { .. } => "group_fenced",
            Self::Fenced { .. } => "fenced",
            Self::Record(_) => "record",
            Self::Invalid(_) | Self::OutOfOrder(_) | Self::Fatal { .. } => "fatal",
        }
    }

    /// Whether the same call can be made again.
    pub const fn is_retriable(&self) -> bool {
        matches!(self, Self::Retry { .. })
    }

    /// Whether the transaction has to be aborted, after which the producer is good for another.
    pub const fn requires_abort(&self) -> bool {
        matches!(self, Self::Abortable { .. } | Self::GroupFenced { .. })
    }

    /// Whether this producer, or this member of the group, was replaced by another: what it was doing is now somebody
    /// else's to do.
    pub const fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::GroupFenced { .. })
    }

    /// Whether the producer is of no use any more.
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Fatal { .. })
    }

    /// `undelivered`: the first record of the transaction that was not delivered.
    pub(super) fn of(failure: Failure, undelivered: Option<(Code, String)>) -> Self {
        let Failure { code, why, is_fatal, is_retriable, requires_abort } = failure;
        let name = code.name();
        if (is_fatal || requires_abort) && code.is_fenced() {
            Self::Fenced { code: name, why }
        } else if is_fatal {
            Self::Fatal { code: name, why }
        } else if requires_abort && code.is_group_fenced() {
            Self::GroupFenced { code: name, why }
        } else if requires_abort {
            Self::abortable(code, why, undelivered)
        } else if is_retriable {
            Self::Retry { code: name, why }
        } else {
            // librdkafka gives no advice: states that it should not be in, for all that this crate knows.
            Self::Fatal { code: name, why }
        }
    }

    pub(super) fn abortable(code: Code, why: String, undelivered: Option<(Code, String)>) -> Self {
        match undelivered {
            Some((cause, record)) => {
                Self::Abortable { code: cause.name(), why: record, delivery: Some(DeliveryError::of(cause)) }
            }
            None => Self::Abortable { code: code.name(), why, delivery: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code) -> Failure {
        Failure { code, why: "why".into(), is_fatal: false, is_retriable: false, requires_abort: false }
    }

    #[test]
    fn advice_of_librdkafka_decides_and_fences_are_kept_apart() {
        const ILLEGAL_GENERATION: Code = Code(22);
        let of = |failure| TransactionError::of(failure, None);
        let fatal = Failure { is_fatal: true, ..failure(Code::FENCED) };
        assert!(matches!(of(fatal), TransactionError::Fenced { .. }));
        let fatal = Failure { is_fatal: true, ..failure(ILLEGAL_GENERATION) };
        assert!(matches!(of(fatal), TransactionError::Fatal { .. }));
        let group = Failure { requires_abort: true, ..failure(ILLEGAL_GENERATION) };
        let error = of(group);
        assert!(matches!(&error, TransactionError::GroupFenced { code, .. } if code == "ILLEGAL_GENERATION"));
        assert!(error.requires_abort() && error.is_fenced() && !error.is_fatal());
        let retry = of(Failure { is_retriable: true, ..failure(Code::TIMED_OUT) });
        assert!(retry.is_retriable() && !retry.requires_abort() && !retry.is_fatal());
        assert!(of(failure(Code::STATE)).is_fatal(), "without advice the producer is not to be trusted");
    }

    #[test]
    fn an_undelivered_record_is_the_reason_to_abort() {
        let inconsistent = Failure { requires_abort: true, ..failure(Code::STATE) };
        let error = TransactionError::of(inconsistent, Some((Code(10), "a record for t[0]".into())));
        let TransactionError::Abortable { code, why, delivery } = error else { panic!("{error}") };
        assert_eq!((code.as_str(), why.as_str()), ("MSG_SIZE_TOO_LARGE", "a record for t[0]"));
        assert_eq!(delivery, Some(DeliveryError::TooLarge));
    }
}
