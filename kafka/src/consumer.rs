//! A member of a consumer group whose rebalances are values, and whose records come in batches.
//!
//! Never commits by itself, and never applies a rebalance before the caller says that it has.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::settings::observer_properties;
use crate::sys::{Code, EndsBeside, GroupClient, Messages, Rebalance};
use crate::{Batch, ClientSettings, ConsumerSettings, GroupMetadata, KafkaError, TopicPartition, go_on};

/// A member of a consumer group. `Send`, not `Sync`: it lives on a thread of its own, since [`Self::poll`] blocks.
///
/// Poll at least every `max.poll.interval.ms` (5 minutes), or the group gives the partitions to others. To leave in
/// good order, call [`Self::leave`]. A consumer that is just dropped
/// leaves the group as well, without handing out a last `Revoked`; that blocks for up to 8 s while Kafka does not
/// answer.
pub struct Consumer {
    /// Before the client, because it is dropped first: messages are part of it.
    messages: Messages,
    group: EndsBeside<GroupClient>,
    errors: u64,
    last_error: Option<KafkaError>,
    /// A fatal error ended the membership; there is nothing left to close.
    ended: bool,
    not_sync: PhantomData<Cell<()>>,
}

/// Longest wait of one poll while the group is left.
const LEAVE_POLL: Duration = Duration::from_millis(100);
/// Bound on the records of one poll, whatever is asked for.
const RECORDS_MAX: usize = 1 << 20;

/// What a poll came back with.
#[derive(Debug)]
pub enum Polled<'c> {
    /// Nothing within the timeout.
    Idle,
    /// Records, at least one.
    Records(Batch<'c>),
    /// These partitions are to be read from now on, besides those there are: answer with [`Consumer::assign_done`] or
    /// [`Consumer::assign_done_at`]. None of them is read before. Until the answer no partition is read at all.
    Assigned(Vec<TopicPartition>),
    /// These partitions are to be given up: finish and commit what was read of them, then answer with
    /// [`Consumer::revoke_done`]. Others get them only after the answer, unless they are lost. Until the answer no
    /// partition is read at all.
    Revoked {
        /// Which ones.
        partitions: Vec<TopicPartition>,
        /// Another member may have them already: committing their offsets is refused, and what was read of them may
        /// be read by somebody else now.
        lost: bool,
    },
}

/// Outcomes of commits since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitCounts {
    /// Commits that Kafka confirmed.
    pub done: u64,
    /// Commits that failed for at least one partition.
    pub failed: u64,
}

/// Asks about a consumer group without joining it. Its calls block.
pub struct GroupObserver {
    group: GroupClient,
}

impl GroupObserver {
    /// A client that asks about the group of this name. With `stable`, an offset is only given out when no transaction
    /// is open that may change it; until then asking times out. Without, it is the offset that counts if such a
    /// transaction is aborted: for when there is no answer for much longer than a transaction can last. (A broker that is
    /// shut down at the wrong moment can complete a transaction and leave the offsets in it undecided for ever.)
    ///
    /// # Errors
    /// [`KafkaError::Config`] for settings that librdkafka does not take.
    pub fn new(client: &ClientSettings, group: &str, stable: bool) -> Result<Self, KafkaError> {
        Ok(Self { group: GroupClient::new(&observer_properties(client, group, stable)?)? })
    }

    /// The committed offsets; `None` where there is none.
    ///
    /// # Errors
    /// Kafka could not be asked in time, or an offset is not stable.
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<(TopicPartition, Option<i64>)>, KafkaError> {
        committed(&self.group, partitions, timeout)
    }

    /// As [`Consumer::watermarks`].
    ///
    /// # Errors
    /// Kafka could not be asked in time.
    pub fn watermarks(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<(i64, i64), KafkaError> {
        self.group.client().watermarks(&partition.topic, partition.partition, timeout)
    }

    /// As [`Consumer::offsets_for_times`].
    ///
    /// # Errors
    /// Kafka could not be asked in time.
    pub fn offsets_for_times(
        &self,
        times_ms: &[(TopicPartition, i64)],
        timeout: Duration,
    ) -> Result<Vec<(TopicPartition, Option<i64>)>, KafkaError> {
        offsets_for_times(&self.group, times_ms, timeout)
    }
}

fn offsets_for_times(
    group: &GroupClient,
    times_ms: &[(TopicPartition, i64)],
    timeout: Duration,
) -> Result<Vec<(TopicPartition, Option<i64>)>, KafkaError> {
    if times_ms.is_empty() {
        return Ok(Vec::new());
    }
    let found = group.offsets_for_times(times_ms, timeout)?;
    Ok(found.into_iter().map(|entry| (entry.partition, entry.offset)).collect())
}

fn committed(
    group: &GroupClient,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> Result<Vec<(TopicPartition, Option<i64>)>, KafkaError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let found = group.committed(partitions, timeout)?;
    Ok(found.into_iter().map(|entry| (entry.partition, entry.offset)).collect())
}

impl fmt::Debug for GroupObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupObserver").finish_non_exhaustive()
    }
}

impl Consumer {
    /// Joins the group; its partitions come out of [`Self::poll`].
    ///
    /// # Errors
    /// [`KafkaError::Config`] for settings that librdkafka does not take. Brokers that cannot be reached are no error
    /// here: they are retried, see [`Self::last_error`].
    pub fn subscribe(client: &ClientSettings, settings: &ConsumerSettings) -> Result<Self, KafkaError> {
        let group = EndsBeside::new(GroupClient::new(&settings.properties(client)?)?);
        group.subscribe(&settings.topics)?;
        Ok(Self {
            group,
            messages: Messages::default(),
            errors: 0,
            last_error: None,
            ended: false,
            not_sync: PhantomData,
        })
    }

    /// Waits for records or a rebalance, at most `timeout`; comes back as soon as there is something, with at most
    /// `records_max` records. Records that were read before a rebalance are handed out before it.
    ///
    /// What comes back borrows the consumer, so take the partitions out of a rebalance before answering it:
    /// ```no_run
    /// # use penstock_kafka::{Consumer, KafkaError, Polled};
    /// # fn step(consumer: &mut Consumer) -> Result<(), KafkaError> {
    /// let assigned = match consumer.poll(10_000, std::time::Duration::from_millis(100))? {
    ///     Polled::Assigned(partitions) => partitions,
    ///     _ => return Ok(()),
    /// };
    /// consumer.assign_done(&assigned)
    /// # }
    /// ```
    ///
    /// # Errors
    /// Only when this consumer is of no use any more (for example another member took its `instance_id`): drop it and
    /// subscribe a new one. Everything else is retried by librdkafka; see [`Self::last_error`].
    pub fn poll(&mut self, records_max: usize, timeout: Duration) -> Result<Polled<'_>, KafkaError> {
        self.messages.clear();
        if let Some(rebalance) = self.next_rebalance()? {
            return Ok(rebalance);
        }
        self.group.consume(&mut self.messages, records_max.clamp(1, RECORDS_MAX), timeout);
        self.take_errors()?;
        if self.messages.len() > 0 {
            self.last_error = None;
            return Ok(Polled::Records(Batch::new(&mut self.messages)));
        }
        Ok(self.next_rebalance()?.unwrap_or(Polled::Idle))
    }

    /// The next rebalance that concerns the caller; those without partitions are answered here.
    fn next_rebalance(&self) -> Result<Option<Polled<'static>>, KafkaError> {
        while let Some(Rebalance { assigned, partitions, lost }) = self.group.next_rebalance() {
            match (assigned, partitions.is_empty()) {
                (true, false) => return Ok(Some(Polled::Assigned(partitions))),
                (false, false) => return Ok(Some(Polled::Revoked { partitions, lost })),
                (true, true) => self.group.assign_committed(&[])?,
                (false, true) => self.group.unassign(&[])?,
            }
        }
        Ok(None)
    }

    /// Takes errors out of the messages and from the client; fatal ones are returned.
    fn take_errors(&mut self) -> Result<(), KafkaError> {
        let mut found = Vec::new();
        self.messages.retain(|message| {
            let code = message.code();
            if code != Code::NONE {
                found.push((code, message.error_text()));
            }
            code == Code::NONE
        });
        while let Some(error) = self.group.next_error() {
            found.push(error);
        }
        for (code, why) in found {
            self.errors += 1;
            if code == Code::FATAL {
                self.ended = true;
                let why = self.group.client().fatal_error().unwrap_or(why);
                return Err(KafkaError::Client { code: code.name(), why, retriable: false, fatal: true });
            }
            let error =
                KafkaError::Client { code: code.name(), why, retriable: code.is_retriable(), fatal: false };
            if self.last_error.as_ref() != Some(&error) {
                tracing::warn!(%error, "the Kafka consumer met an error and goes on");
            }
            self.last_error = Some(error);
        }
        Ok(())
    }

    /// The offset below which everything of the partition has been handed out, was passed over (markers of transactions
    /// and what was aborted by them), or lies before where reading began. `None` if nothing was read yet.
    ///
    /// This is not told by the events of `enable.partition.eof`: librdkafka 2.12 takes such an event for a record that
    /// was handed out, and passes over the next record when the group rebalances.
    pub fn passed(&self, partition: &TopicPartition) -> Option<i64> {
        self.group.position(partition)
    }

    /// Acknowledges [`Polled::Assigned`]: reading starts at the committed offsets, at the oldest record without one.
    /// With `read_committed` it starts only when no transaction is open that may change those offsets.
    ///
    /// # Errors
    /// When the assignment is not wanted any more, because it was lost meanwhile.
    pub fn assign_done(&mut self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.group.assign_committed(partitions)
    }

    /// Like [`Self::assign_done`], but reading starts at the given offsets.
    ///
    /// # Errors
    /// As [`Self::assign_done`].
    pub fn assign_done_at(&mut self, offsets: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        self.group.assign(offsets)
    }

    /// Acknowledges [`Polled::Revoked`]: others may read these partitions from now on.
    ///
    /// # Errors
    /// When the partitions are not assigned any more.
    pub fn revoke_done(&mut self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.group.unassign(partitions)
    }

    /// Stops reading these partitions, without giving them up. Records that were fetched but not handed out are
    /// fetched again later.
    ///
    /// # Errors
    /// When librdkafka does not know one of them; the others are paused.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.group.pause(partitions)
    }

    /// Reads paused partitions again, from where they were paused.
    ///
    /// # Errors
    /// When librdkafka does not know one of them; the others are resumed.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.group.resume(partitions)
    }

    /// Goes on reading at other offsets. Records handed out by earlier polls are not taken back.
    ///
    /// # Errors
    /// When one of them is not assigned, or on timeout.
    pub fn seek(&mut self, offsets: &[(TopicPartition, i64)], timeout: Duration) -> Result<(), KafkaError> {
        self.group.seek(offsets, timeout)
    }

    /// Starts committing: each number is the offset of the next record to read. The outcome is in
    /// [`Self::commit_counts`] after a later poll; a failure is also in [`Self::last_error`].
    ///
    /// # Errors
    /// When the commit could not even be started.
    pub fn commit_async(&self, next_offsets: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        if next_offsets.is_empty() {
            return Ok(());
        }
        self.group.commit_async(next_offsets)
    }

    /// Commits and waits for Kafka's answer, at most `timeout`. After a timeout the commit may still be done.
    ///
    /// # Errors
    /// Kafka refused the commit (for example because the partitions are lost), or did not answer in time.
    pub fn commit_sync(
        &self,
        next_offsets: &[(TopicPartition, i64)],
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        if next_offsets.is_empty() {
            return Ok(());
        }
        self.group.commit_sync(next_offsets, timeout)
    }

    /// The committed offsets of the group; `None` where there is none.
    ///
    /// With `read_committed` the answer is waited for until no transaction is open that may change them; while one is,
    /// this ends with a time-out, which is transient. Without, they are the offsets as they were before it.
    ///
    /// # Errors
    /// Kafka could not be asked in time, or see above.
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<(TopicPartition, Option<i64>)>, KafkaError> {
        committed(&self.group, partitions, timeout)
    }

    /// The oldest offset and the next offset to be written (with `read_committed`: to be readable), asked from Kafka.
    ///
    /// # Errors
    /// Kafka could not be asked in time.
    pub fn watermarks(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<(i64, i64), KafkaError> {
        self.group.client().watermarks(&partition.topic, partition.partition, timeout)
    }

    /// Like [`Self::watermarks`], as of the latest fetch, without asking; `None` before the first fetch. The lag is the
    /// second number less the next offset to be handed out.
    pub fn cached_watermarks(&self, partition: &TopicPartition) -> Option<(i64, i64)> {
        self.group.client().cached_watermarks(&partition.topic, partition.partition)
    }

    /// The offset of the first record that is not older than a time (milliseconds since the Unix epoch) in each
    /// partition; `None` where all records are older.
    ///
    /// # Errors
    /// Kafka could not be asked in time.
    pub fn offsets_for_times(
        &self,
        times_ms: &[(TopicPartition, i64)],
        timeout: Duration,
    ) -> Result<Vec<(TopicPartition, Option<i64>)>, KafkaError> {
        offsets_for_times(&self.group, times_ms, timeout)
    }

    /// Commits whose outcome is known by now.
    pub fn commit_counts(&self) -> CommitCounts {
        let (done, failed) = self.group.commit_counts();
        CommitCounts { done, failed }
    }

    /// Commits that [`Self::commit_async`] started and no poll has brought the answer of yet; those without an answer for
    /// a minute are not counted any more, since librdkafka has closed their connection long ago. At 0, and after the
    /// partitions' last [`Self::commit_sync`] came back, no older commit is on its way that could overwrite offsets
    /// which a transaction commits. The exception is a commit that was answered with a time-out (see
    /// [`Self::last_error`], or the error of `commit_sync`): a broker that was only slow may still carry it out.
    pub fn commits_in_flight(&self) -> usize {
        self.group.commits_open()
    }

    /// This membership, for [`crate::Transaction::send_offsets`]: as which member, in which generation of the group.
    /// Take it when the records are read whose offsets will be sent, not when they are sent, and anew after every
    /// rebalance: offsets sent with one that is over are refused.
    ///
    /// `None` while this consumer is no member: before its first assignment, after it lost its membership, and after
    /// it was closed. (Kafka takes offsets of a transaction that names no member without any check.)
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        if self.is_closed() {
            return None;
        }
        self.group.client().group_metadata()
    }

    /// Number of errors since the start that librdkafka reported and goes on after.
    pub const fn errors(&self) -> u64 {
        self.errors
    }

    /// The latest error that no record has come after.
    pub const fn last_error(&self) -> Option<&KafkaError> {
        self.last_error.as_ref()
    }

    /// Leaves the group. Returns the partitions that were given up on the way; records that still come are dropped, since
    /// they are read again by the next owner. If Kafka does not let go before `deadline` that is logged: the group
    /// notices by itself.
    ///
    /// # Errors
    /// A fatal error; the consumer counts as closed then.
    pub fn leave(&mut self, deadline: Instant) -> Result<Vec<TopicPartition>, KafkaError> {
        let mut given_up = Vec::new();
        self.begin_close()?;
        while !self.is_closed() {
            if Instant::now() >= deadline {
                tracing::warn!(
                    "Kafka did not let a consumer leave its group in time; it will notice by itself"
                );
                break;
            }
            let Polled::Revoked { partitions, .. } = self.poll(1, LEAVE_POLL)? else { continue };
            go_on("give up partitions", self.revoke_done(&partitions))?;
            given_up.extend(partitions);
        }
        Ok(given_up)
    }

    /// Starts to leave the group, for those who do not wait as [`Self::leave`] does. Go on polling: a last [`Polled::Revoked`] comes out if partitions are assigned, and
    /// has to be answered. Then [`Self::is_closed`] becomes true.
    ///
    /// # Errors
    /// After a fatal error; the consumer counts as closed then.
    pub fn begin_close(&mut self) -> Result<(), KafkaError> {
        if self.is_closed() {
            return Ok(());
        }
        self.group
            .begin_close()
            .inspect_err(|error| self.ended |= matches!(error, KafkaError::Client { fatal: true, .. }))
    }

    /// Whether this consumer has left the group.
    pub fn is_closed(&self) -> bool {
        self.ended || self.group.is_closed()
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("errors", &self.errors).finish_non_exhaustive()
    }
}
