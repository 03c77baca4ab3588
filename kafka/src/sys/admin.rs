//! Calls that administer topics: each waits for its answer.
#![allow(unsafe_code, reason = "requests and answers are C objects")]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as rd;
use rdkafka_sys::types::{RDKafkaAdminOp as AdminOp, RDKafkaResourceType as ResourceType};

use super::client::c_name;
use super::{Client, Code, Queue, text, timeout_ms};
use crate::{KafkaError, TopicSpec};

/// A topic as a broker described it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicInfo {
    pub(crate) partitions: i32,
    /// Whether every partition has a leader.
    pub(crate) is_led: bool,
}

/// What became of one topic of a request.
#[derive(Clone, Debug)]
pub(crate) struct TopicOutcome {
    pub(crate) topic: String,
    pub(crate) code: Code,
    /// The broker's own words.
    pub(crate) why: String,
}

/// The settings of a topic, or why they are not to be had.
pub(crate) type Settings = Result<BTreeMap<String, String>, (Code, String)>;

impl Client {
    /// Every topic of the cluster.
    pub(crate) fn topics(&self, timeout: Duration) -> Result<BTreeMap<String, TopicInfo>, Code> {
        let mut found: *const rd::rd_kafka_metadata = ptr::null();
        // SAFETY: a live client; `found` is written only on success, read before it is freed, and freed once. Counts
        // and arrays belong together.
        unsafe {
            let code =
                rd::rd_kafka_metadata(self.as_ptr(), 1, ptr::null_mut(), &raw mut found, timeout_ms(timeout));
            Code::from(code).check()?;
            let mut topics = BTreeMap::new();
            for topic in slice((*found).topics, usize::try_from((*found).topic_cnt).unwrap_or(0)) {
                let count = usize::try_from(topic.partition_cnt).unwrap_or(0);
                let is_led = slice(topic.partitions, count).iter().all(|partition| partition.leader >= 0);
                topics.insert(text(topic.topic), TopicInfo { partitions: topic.partition_cnt, is_led });
            }
            rd::rd_kafka_metadata_destroy(found);
            Ok(topics)
        }
    }

    /// Creates topics; each has an outcome of its own.
    pub(crate) fn create_topics(
        self: &Arc<Self>,
        topics: &[&TopicSpec],
        timeout: Duration,
    ) -> Result<Vec<TopicOutcome>, KafkaError> {
        let new: Vec<NewTopic> = topics.iter().map(|topic| NewTopic::new(topic)).collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = new.iter().map(|topic| topic.0.as_ptr()).collect();
        let call = Call::new(self, timeout)?;
        // SAFETY: live handles; librdkafka copies the requests. The event is of the kind that is asked for, and its
        // results live as long as it does.
        unsafe {
            rd::rd_kafka_CreateTopics(
                self.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                call.options,
                call.queue.as_ptr(),
            );
            let answer = call.wait("create topics")?;
            let mut count = 0;
            let result = rd::rd_kafka_event_CreateTopics_result(answer.0.as_ptr());
            Ok(outcomes(rd::rd_kafka_CreateTopics_result_topics(result, &raw mut count), count))
        }
    }

    /// Deletes topics; each has an outcome of its own.
    pub(crate) fn delete_topics(
        self: &Arc<Self>,
        topics: &[String],
        timeout: Duration,
    ) -> Result<Vec<TopicOutcome>, KafkaError> {
        let names: Vec<CString> = topics.iter().map(|topic| c_name(topic)).collect::<Result<_, _>>()?;
        let call = Call::new(self, timeout)?;
        // SAFETY: as for `create_topics`; names are terminated and copied, requests are destroyed once.
        unsafe {
            let mut pointers: Vec<_> =
                names.iter().map(|name| rd::rd_kafka_DeleteTopic_new(name.as_ptr())).collect();
            rd::rd_kafka_DeleteTopics(
                self.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                call.options,
                call.queue.as_ptr(),
            );
            rd::rd_kafka_DeleteTopic_destroy_array(pointers.as_mut_ptr(), pointers.len());
            let answer = call.wait("delete topics")?;
            let mut count = 0;
            let result = rd::rd_kafka_event_DeleteTopics_result(answer.0.as_ptr());
            Ok(outcomes(rd::rd_kafka_DeleteTopics_result_topics(result, &raw mut count), count))
        }
    }

    /// The settings of topics, defaults included.
    pub(crate) fn topic_settings(
        self: &Arc<Self>,
        topics: &[&str],
        timeout: Duration,
    ) -> Result<BTreeMap<String, Settings>, KafkaError> {
        let names: Vec<CString> = topics.iter().map(|topic| c_name(topic)).collect::<Result<_, _>>()?;
        let call = Call::new(self, timeout)?;
        // SAFETY: as for `delete_topics`.
        unsafe {
            let kind = ResourceType::RD_KAFKA_RESOURCE_TOPIC;
            let mut pointers: Vec<_> =
                names.iter().map(|name| rd::rd_kafka_ConfigResource_new(kind, name.as_ptr())).collect();
            rd::rd_kafka_DescribeConfigs(
                self.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                call.options,
                call.queue.as_ptr(),
            );
            rd::rd_kafka_ConfigResource_destroy_array(pointers.as_mut_ptr(), pointers.len());
            let answer = call.wait("describe topics")?;
            let mut count = 0;
            let result = rd::rd_kafka_event_DescribeConfigs_result(answer.0.as_ptr());
            let resources = rd::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
            let named = slice(resources, count).iter().map(|resource| settings(*resource));
            Ok(named.collect())
        }
    }
}

/// # Safety
/// `start` points to `count` values that live as long as `'a`; if `count` is 0 it may be anything.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if count == 0 || start.is_null() {
        return &[];
    }
    // SAFETY: as the caller promised.
    unsafe { std::slice::from_raw_parts(start, count) }
}

/// # Safety
/// An array of live results.
unsafe fn outcomes(results: *mut *const rd::rd_kafka_topic_result_t, count: usize) -> Vec<TopicOutcome> {
    // SAFETY: as the caller promised; strings are terminated or null.
    unsafe {
        let outcome = |result: &*const rd::rd_kafka_topic_result_t| {
            let code = Code::from(rd::rd_kafka_topic_result_error(*result));
            let why = text(rd::rd_kafka_topic_result_error_string(*result));
            TopicOutcome { topic: text(rd::rd_kafka_topic_result_name(*result)), code, why }
        };
        slice(results, count).iter().map(outcome).collect()
    }
}

/// # Safety
/// A live resource of an answer.
unsafe fn settings(resource: *const rd::rd_kafka_ConfigResource_t) -> (String, Settings) {
    // SAFETY: as the caller promised; strings are terminated or null, and the array is as long as it says.
    unsafe {
        let name = text(rd::rd_kafka_ConfigResource_name(resource));
        let code = Code::from(rd::rd_kafka_ConfigResource_error(resource));
        if let Err(code) = code.check() {
            return (name, Err((code, text(rd::rd_kafka_ConfigResource_error_string(resource)))));
        }
        let mut count = 0;
        let entries = rd::rd_kafka_ConfigResource_configs(resource, &raw mut count);
        let pair = |entry: &*const rd::rd_kafka_ConfigEntry_t| {
            (text(rd::rd_kafka_ConfigEntry_name(*entry)), text(rd::rd_kafka_ConfigEntry_value(*entry)))
        };
        (name, Ok(slice(entries, count).iter().map(pair).collect()))
    }
}

/// A request under way: its options and the queue its answer comes to.
struct Call {
    options: *mut rd::rd_kafka_AdminOptions_t,
    queue: Queue,
    timeout: Duration,
}

impl Call {
    fn new(client: &Arc<Client>, timeout: Duration) -> Result<Self, KafkaError> {
        let queue = Queue::fresh(client).ok_or_else(|| Code::INVALID_ARG.error("open a queue"))?;
        let mut why = [0 as c_char; 256];
        // SAFETY: a live client; `why` is as long as it says. A timeout that is out of range leaves the default.
        let options = unsafe {
            let options = rd::rd_kafka_AdminOptions_new(client.as_ptr(), AdminOp::RD_KAFKA_ADMIN_OP_ANY);
            let timeout_ms: c_int = timeout_ms(timeout).max(1);
            rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why.as_mut_ptr(), why.len());
            options
        };
        Ok(Self { options, queue, timeout })
    }

    fn wait(&self, what: &str) -> Result<Answer, KafkaError> {
        // The request's own timeout comes first, and says more.
        let wait = self.timeout + Duration::from_secs(1);
        // SAFETY: a live queue; an event is owned by the answer.
        unsafe {
            let event = rd::rd_kafka_queue_poll(self.queue.as_ptr(), timeout_ms(wait));
            let answer = NonNull::new(event).map(Answer).ok_or_else(|| Code::TIMED_OUT.error(what))?;
            let code = Code::from(rd::rd_kafka_event_error(event));
            code.check().map(|()| answer).map_err(|code| code.error(what))
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.options) };
    }
}

struct Answer(NonNull<rd::rd_kafka_event_t>);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

struct NewTopic(NonNull<rd::rd_kafka_NewTopic_t>);

impl NewTopic {
    fn new(spec: &TopicSpec) -> Result<Self, KafkaError> {
        let name = c_name(&spec.name)?;
        let what = format!("create topic {}", spec.name);
        let mut why = [0 as c_char; 256];
        // SAFETY: a terminated name, and `why` is as long as it says and terminated when it is written to.
        let (topic, why) = unsafe {
            let (partitions, replicas) = (spec.partitions, spec.replication_factor);
            let topic =
                rd::rd_kafka_NewTopic_new(name.as_ptr(), partitions, replicas, why.as_mut_ptr(), why.len());
            (NonNull::new(topic), text(why.as_ptr()))
        };
        let topic = topic.map(Self).ok_or_else(|| Code::INVALID_ARG.error(&format!("{what}: {why}")))?;
        for (key, value) in spec.config.iter().chain(&spec.initial) {
            let (Ok(key), Ok(value)) = (CString::new(key.as_str()), CString::new(value.as_str())) else {
                return Err(Code::INVALID_ARG.error(&what));
            };
            // SAFETY: a live request and terminated strings, which are copied.
            let code =
                unsafe { rd::rd_kafka_NewTopic_set_config(topic.0.as_ptr(), key.as_ptr(), value.as_ptr()) };
            Code::from(code).check().map_err(|code| code.error(&what))?;
        }
        Ok(topic)
    }
}

impl Drop for NewTopic {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd::rd_kafka_NewTopic_destroy(self.0.as_ptr()) };
    }
}
