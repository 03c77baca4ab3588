//! A consuming client: its queue, its callbacks turned into values, and calls about its partitions.
#![allow(unsafe_code, reason = "callbacks and partition lists pass through C structures")]

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka_sys as rd;
use rdkafka_sys::types::RDKafkaType as Type;

use super::conf::Conf;
use super::list::{self, List};
use super::{Client, Code, Messages, PartitionOffset, Queue, error, timeout_ms};
use crate::settings::Properties;
use crate::{KafkaError, TopicPartition};

/// Bound on errors that wait to be looked at; older ones are dropped, but counted.
const ERRORS_MAX: usize = 64;
/// A commit without an answer for so long gets none: librdkafka has closed its connection (`socket.timeout.ms`, a minute).
const COMMIT_MAX: Duration = Duration::from_secs(60);
/// In a subscription: every partition of the topic.
const PARTITION_ANY: i32 = -1;

/// A change of the assignment that librdkafka waits to see applied.
#[derive(Clone, Debug)]
pub(crate) struct Rebalance {
    pub(crate) assigned: bool,
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) lost: bool,
}

/// What callbacks leave behind. They run on the thread that polls, inside of its calls.
#[derive(Default)]
struct Events {
    /// librdkafka has at most one rebalance open at a time, so this stays short.
    rebalances: Mutex<VecDeque<Rebalance>>,
    errors: Mutex<VecDeque<(Code, String)>>,
    commits_done: AtomicU64,
    commits_failed: AtomicU64,
    /// Commits that nobody waits for and that have no answer yet: their numbers, and when they began.
    commits_open: Mutex<BTreeMap<usize, Instant>>,
    /// Outcome of the last commit that somebody waits for: its number and its code.
    awaited: Mutex<Option<(usize, Code)>>,
    /// Apply rebalances at once: nobody will ask for them any more.
    closing: AtomicBool,
    queue: AtomicPtr<rd::rd_kafka_queue_t>,
}

impl Events {
    fn error(&self, code: Code, why: String) {
        let mut errors = self.errors.lock();
        if errors.len() == ERRORS_MAX {
            errors.pop_front();
        }
        errors.push_back((code, why));
    }
}

/// A client that reads: as a member of a group, or partitions that it is told to.
pub(crate) struct GroupClient {
    queue: Queue,
    client: Arc<Client>,
    /// Behind the callbacks' opaque pointer, so it is freed after the client.
    events: Arc<Events>,
    commits: AtomicU64,
    /// Static membership.
    has_name: bool,
    /// Handed out, and not answered yet.
    unanswered: Mutex<Option<Rebalance>>,
}

impl GroupClient {
    pub(crate) fn new(properties: &Properties) -> Result<Self, KafkaError> {
        let has_name = properties.iter().any(|(name, _)| name == "group.instance.id");
        let conf = Conf::new(properties)?;
        let events = Arc::new(Events::default());
        // SAFETY: a live configuration; the opaque pointer stays valid because `events` outlives the client: it is
        // the last field that is dropped.
        unsafe {
            rd::rd_kafka_conf_set_opaque(conf.as_ptr(), Arc::as_ptr(&events).cast_mut().cast());
            rd::rd_kafka_conf_set_rebalance_cb(conf.as_ptr(), Some(on_rebalance));
            rd::rd_kafka_conf_set_error_cb(conf.as_ptr(), Some(on_error));
        }
        let client = Arc::new(Client::new(Type::RD_KAFKA_CONSUMER, conf)?);
        // Errors of the client come through the same queue as records, so that one poll serves all.
        // SAFETY: a live client.
        Code::from(unsafe { rd::rd_kafka_poll_set_consumer(client.as_ptr()) })
            .check()
            .map_err(|code| code.error("set up the consumer"))?;
        let queue =
            Queue::consumer(&client).ok_or_else(|| Code::INVALID_ARG.error("group.id must not be empty"))?;
        events.queue.store(queue.as_ptr(), Ordering::Release);
        Ok(Self { queue, client, events, commits: AtomicU64::new(0), unanswered: Mutex::new(None), has_name })
    }

    pub(crate) const fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(crate) fn subscribe(&self, topics: &[String]) -> Result<(), KafkaError> {
        let topics: Vec<_> =
            topics.iter().map(|topic| TopicPartition::new(topic.as_str(), PARTITION_ANY)).collect();
        let list = List::of(&topics)?;
        // SAFETY: a live client and list; the list is copied.
        Code::from(unsafe { rd::rd_kafka_subscribe(self.client.as_ptr(), list.as_ptr()) })
            .check()
            .map_err(|code| code.error("subscribe"))
    }

    /// Adds what is there to `messages`, at most `messages_max`; waits for the first, or for a rebalance.
    pub(crate) fn consume(&self, messages: &mut Messages, messages_max: usize, timeout: Duration) {
        // librdkafka's own wait goes on until the batch is full, so it is asked for one message at a time to wait
        // and for all of them without waiting.
        self.consume_now(messages, messages_max, Duration::ZERO);
        if messages.len() == 0 && !timeout.is_zero() && self.events.rebalances.lock().is_empty() {
            self.consume_now(messages, 1, timeout);
            self.consume_now(messages, messages_max.saturating_sub(messages.len()), Duration::ZERO);
        }
    }

    fn consume_now(&self, messages: &mut Messages, messages_max: usize, timeout: Duration) {
        if messages_max == 0 {
            return;
        }
        // SAFETY: a live queue, and room for as many messages as librdkafka is told; it says how many it wrote.
        unsafe {
            let room = messages.room(messages_max);
            let count = rd::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                timeout_ms(timeout),
                room,
                messages_max,
            );
            messages.filled(usize::try_from(count).unwrap_or(0));
        }
    }

    /// The oldest rebalance that was not handed out yet. It waits for an answer until [`Self::assign`],
    /// [`Self::assign_committed`] or [`Self::unassign`].
    pub(crate) fn next_rebalance(&self) -> Option<Rebalance> {
        let rebalance = self.events.rebalances.lock().pop_front()?;
        *self.unanswered.lock() = Some(rebalance.clone());
        Some(rebalance)
    }

    /// The oldest error of the client that was not handed out yet.
    pub(crate) fn next_error(&self) -> Option<(Code, String)> {
        self.events.errors.lock().pop_front()
    }

    /// Commits that Kafka confirmed, and those that failed.
    pub(crate) fn commit_counts(&self) -> (u64, u64) {
        let counts = &*self.events;
        (counts.commits_done.load(Ordering::Relaxed), counts.commits_failed.load(Ordering::Relaxed))
    }

    /// Commits that nobody waits for, whose outcome is not known yet and can still come.
    pub(crate) fn commits_open(&self) -> usize {
        let mut open = self.events.commits_open.lock();
        open.retain(|_, began| {
            let can_come = began.elapsed() < COMMIT_MAX;
            if !can_come {
                tracing::warn!("a commit has had no answer for {COMMIT_MAX:?} and is waited for no longer");
            }
            can_come
        });
        open.len()
    }

    /// Tells librdkafka that an assignment is taken up; reads from the offsets that are given.
    pub(crate) fn assign(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        *self.unanswered.lock() = None;
        let list = List::with_offsets(offsets)?;
        // SAFETY: a live client and list.
        unsafe { apply(self.client.as_ptr(), true, list.as_ptr()) }
    }

    /// Like [`Self::assign`], from the committed offsets.
    pub(crate) fn assign_committed(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        *self.unanswered.lock() = None;
        let list = List::of(partitions)?;
        // SAFETY: a live client and list.
        unsafe { apply(self.client.as_ptr(), true, list.as_ptr()) }
    }

    /// Tells librdkafka that partitions are given up.
    pub(crate) fn unassign(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        *self.unanswered.lock() = None;
        let list = List::of(partitions)?;
        // SAFETY: a live client and list.
        unsafe { apply(self.client.as_ptr(), false, list.as_ptr()) }
    }

    pub(crate) fn pause(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        let list = List::of(partitions)?;
        // SAFETY: a live client and list; errors are left in the list.
        let code = unsafe { rd::rd_kafka_pause_partitions(self.client.as_ptr(), list.as_ptr()) };
        Code::from(code).check().map_err(|code| code.error("pause"))?;
        list.check("pause")
    }

    pub(crate) fn resume(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        let list = List::of(partitions)?;
        // SAFETY: a live client and list; errors are left in the list.
        let code = unsafe { rd::rd_kafka_resume_partitions(self.client.as_ptr(), list.as_ptr()) };
        Code::from(code).check().map_err(|code| code.error("resume"))?;
        list.check("resume")
    }

    /// The offset behind what was consumed last, without asking Kafka.
    pub(crate) fn position(&self, partition: &TopicPartition) -> Option<i64> {
        let list = List::of(std::slice::from_ref(partition)).ok()?;
        // SAFETY: a live client and list; offsets are left in the list.
        let code = unsafe { rd::rd_kafka_position(self.client.as_ptr(), list.as_ptr()) };
        Code::from(code).check().ok()?;
        list.read().first().and_then(|entry| entry.offset)
    }

    pub(crate) fn seek(
        &self,
        offsets: &[(TopicPartition, i64)],
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        let list = List::with_offsets(offsets)?;
        // SAFETY: a live client and list; errors are left in the list.
        unsafe {
            let error =
                rd::rd_kafka_seek_partitions(self.client.as_ptr(), list.as_ptr(), timeout_ms(timeout));
            error::check(error, "seek")?;
        }
        list.check("seek")
    }

    pub(crate) fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<PartitionOffset>, KafkaError> {
        let list = List::of(partitions)?;
        // SAFETY: a live client and list; offsets are left in the list.
        let code =
            unsafe { rd::rd_kafka_committed(self.client.as_ptr(), list.as_ptr(), timeout_ms(timeout)) };
        Code::from(code).check().map_err(|code| code.error("read committed offsets"))?;
        list.check("committed offset")?;
        Ok(list.read())
    }

    pub(crate) fn offsets_for_times(
        &self,
        times_ms: &[(TopicPartition, i64)],
        timeout: Duration,
    ) -> Result<Vec<PartitionOffset>, KafkaError> {
        let list = List::with_offsets(times_ms)?;
        // SAFETY: a live client and list; offsets are left in the list.
        let code = unsafe {
            rd::rd_kafka_offsets_for_times(self.client.as_ptr(), list.as_ptr(), timeout_ms(timeout))
        };
        Code::from(code).check().map_err(|code| code.error("look offsets up by time"))?;
        list.check("offset by time")?;
        Ok(list.read())
    }

    /// Starts a commit; its outcome is counted by a later poll.
    pub(crate) fn commit_async(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        let number = self.next_commit();
        self.commit(offsets, &self.queue, number)?;
        // The answer is taken by a later poll, so it cannot be looked for before this.
        self.events.commits_open.lock().insert(number, Instant::now());
        Ok(())
    }

    /// A number that tells the next commit from all others.
    fn next_commit(&self) -> usize {
        usize::try_from(self.commits.fetch_add(1, Ordering::Relaxed)).unwrap_or(0)
    }

    /// Commits and waits.
    pub(crate) fn commit_sync(
        &self,
        offsets: &[(TopicPartition, i64)],
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        let queue = Queue::fresh(&self.client).ok_or_else(|| Code::INVALID_ARG.error("commit"))?;
        let number = self.next_commit();
        self.commit(offsets, &queue, number)?;
        let begin = Instant::now();
        loop {
            queue.serve(timeout.saturating_sub(begin.elapsed()));
            if let Some((done, code)) = *self.events.awaited.lock()
                && done == number
            {
                return code.check().map_err(|code| code.error("commit offsets"));
            }
            if begin.elapsed() >= timeout {
                let waited_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                return Err(KafkaError::TimedOut { what: "commit of offsets".into(), waited_ms });
            }
        }
    }

    fn commit(
        &self,
        offsets: &[(TopicPartition, i64)],
        queue: &Queue,
        number: usize,
    ) -> Result<(), KafkaError> {
        let list = List::with_offsets(offsets)?;
        // SAFETY: live handles; the list is copied; the opaque is a number and never followed.
        let code = unsafe {
            rd::rd_kafka_commit_queue(
                self.client.as_ptr(),
                list.as_ptr(),
                queue.as_ptr(),
                Some(on_commit),
                ptr::without_provenance_mut(number),
            )
        };
        Code::from(code).check().map_err(|code| code.error("commit offsets"))
    }

    /// Leaves the group: rebalances go on coming out of polls until [`Self::is_closed`].
    pub(crate) fn begin_close(&self) -> Result<(), KafkaError> {
        self.unsubscribe();
        // SAFETY: live handles.
        unsafe {
            let error = rd::rd_kafka_consumer_close_queue(self.client.as_ptr(), self.queue.as_ptr());
            error::check(error, "close the consumer")
        }
    }

    /// A member without partitions that is closed right away leaves without telling the group, which then waits for its
    /// session to end (librdkafka 2.12 skips the rejoin that would tell it). Members with a name must not tell it:
    /// they keep their partitions if they come back in time.
    fn unsubscribe(&self) {
        if !self.has_name {
            // SAFETY: a live client.
            unsafe { rd::rd_kafka_unsubscribe(self.client.as_ptr()) };
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        // SAFETY: a live client.
        unsafe { rd::rd_kafka_consumer_closed(self.client.as_ptr()) != 0 }
    }
}

impl Drop for GroupClient {
    fn drop(&mut self) {
        // Nobody answers rebalances any more, and librdkafka would wait for an answer for ever.
        self.events.closing.store(true, Ordering::Release);
        if self.is_closed() {
            return;
        }
        let stashed = std::mem::take(&mut *self.events.rebalances.lock());
        let unanswered = self.unanswered.lock().take();
        for rebalance in unanswered.into_iter().chain(stashed) {
            let answered = match rebalance.assigned {
                true => self.assign_committed(&rebalance.partitions),
                false => self.unassign(&rebalance.partitions),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "a rebalance could not be answered while the consumer closed");
            }
        }
        self.unsubscribe();
        // Destroying the client does the rest.
    }
}

/// Applies a rebalance: adds partitions to the assignment, or takes them out.
///
/// # Safety
/// A live client and list. The list is copied.
unsafe fn apply(
    client: *mut rd::rd_kafka_t,
    is_added: bool,
    list: *mut rd::rd_kafka_topic_partition_list_t,
) -> Result<(), KafkaError> {
    // SAFETY: as the caller promised; the protocol is a static string or null; a null list gives everything up.
    unsafe {
        let is_cooperative = super::text(rd::rd_kafka_rebalance_protocol(client)) == "COOPERATIVE";
        match (is_cooperative, is_added) {
            (true, true) => error::check(rd::rd_kafka_incremental_assign(client, list), "assign"),
            (true, false) => error::check(rd::rd_kafka_incremental_unassign(client, list), "unassign"),
            (false, _) => {
                Code::from(rd::rd_kafka_assign(client, if is_added { list } else { ptr::null_mut() }))
                    .check()
                    .map_err(|code| code.error("assign"))
            }
        }
    }
}

/// # Safety
/// `opaque` is the pointer that `GroupClient::new` configured, and the client is alive.
const unsafe fn events<'a>(opaque: *mut c_void) -> &'a Events {
    // SAFETY: as the caller promised.
    unsafe { &*opaque.cast_const().cast::<Events>() }
}

extern "C" fn on_rebalance(
    client: *mut rd::rd_kafka_t,
    code: rd::types::RDKafkaRespErr,
    partitions: *mut rd::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: called by librdkafka with its client, a list that lives as long as the call, and our opaque. The queue
    // is destroyed after polling ended, and callbacks come from polls, or from the client's end when `closing`.
    unsafe {
        let events = events(opaque);
        let assigned = Code::from(code) == Code::ASSIGN;
        if events.closing.load(Ordering::Acquire) {
            if let Err(error) = apply(client, assigned, partitions) {
                tracing::debug!(%error, "a rebalance could not be answered while the consumer closed");
            }
            return;
        }
        events.rebalances.lock().push_back(Rebalance {
            assigned,
            partitions: list::read(partitions).into_iter().map(|entry| entry.partition).collect(),
            lost: !assigned && rd::rd_kafka_assignment_lost(client) != 0,
        });
        // The poll that runs this callback returns at once instead of waiting on for records.
        rd::rd_kafka_queue_yield(events.queue.load(Ordering::Acquire));
    }
}

extern "C" fn on_error(_client: *mut rd::rd_kafka_t, code: c_int, why: *const c_char, opaque: *mut c_void) {
    // SAFETY: called by librdkafka with a terminated string and our opaque.
    unsafe { events(opaque).error(Code(code), super::text(why)) };
}

extern "C" fn on_commit(
    client: *mut rd::rd_kafka_t,
    code: rd::types::RDKafkaRespErr,
    offsets: *mut rd::rd_kafka_topic_partition_list_t,
    number: *mut c_void,
) {
    // SAFETY: called by librdkafka with its client, whose opaque is ours, and a list that lives as long as the call.
    let (events, entries) = unsafe { (events(rd::rd_kafka_opaque(client)), list::read(offsets)) };
    let failed = entries.iter().find(|entry| entry.code != Code::NONE);
    let code =
        Code::from(code).check().err().or_else(|| failed.map(|entry| entry.code)).unwrap_or(Code::NONE);
    let is_awaited = events.commits_open.lock().remove(&number.addr()).is_none();
    if code == Code::NONE {
        events.commits_done.fetch_add(1, Ordering::Relaxed);
    } else {
        events.commits_failed.fetch_add(1, Ordering::Relaxed);
        if !is_awaited {
            let of = failed.map_or_else(String::new, |entry| format!(" of {}", entry.partition));
            events.error(code, format!("commit of offsets{of} failed: {}", code.words()));
        }
    }
    if is_awaited {
        *events.awaited.lock() = Some((number.addr(), code));
    }
}
