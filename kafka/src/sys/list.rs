//! Lists of partitions with an offset each, as most calls of librdkafka take and fill them.
#![allow(unsafe_code, reason = "librdkafka's lists are C objects")]

use std::ffi::CStr;
use std::sync::Arc;

use rdkafka_sys as rd;

use super::Code;
use super::client::c_name;
use crate::{KafkaError, TopicPartition};

/// An entry of a list that librdkafka filled.
#[derive(Clone, Debug)]
pub(crate) struct PartitionOffset {
    pub(crate) partition: TopicPartition,
    /// `None` for librdkafka's "no offset" and "end".
    pub(crate) offset: Option<i64>,
    pub(crate) code: Code,
}

/// An owned list.
pub(super) struct List(*mut rd::rd_kafka_topic_partition_list_t);

impl List {
    /// Partitions without offsets: where librdkafka has a choice, it takes the committed ones.
    pub(super) fn of(partitions: &[TopicPartition]) -> Result<Self, KafkaError> {
        Self::build(partitions.iter().map(|partition| (partition, rd::RD_KAFKA_OFFSET_INVALID.into())))
    }

    /// Partitions with offsets (or timestamps, for the call that wants those).
    pub(super) fn with_offsets(offsets: &[(TopicPartition, i64)]) -> Result<Self, KafkaError> {
        Self::build(offsets.iter().map(|(partition, offset)| (partition, *offset)))
    }

    fn build<'a>(
        entries: impl ExactSizeIterator<Item = (&'a TopicPartition, i64)>,
    ) -> Result<Self, KafkaError> {
        let size = i32::try_from(entries.len()).unwrap_or(i32::MAX);
        // SAFETY: no pointers go in.
        let list = Self(unsafe { rd::rd_kafka_topic_partition_list_new(size) });
        for (partition, offset) in entries {
            let topic = c_name(&partition.topic)?;
            // SAFETY: a live list; the name is copied; the entry returned is valid until the next addition.
            unsafe {
                let entry =
                    rd::rd_kafka_topic_partition_list_add(list.0, topic.as_ptr(), partition.partition);
                (*entry).offset = offset;
            }
        }
        Ok(list)
    }

    pub(super) const fn as_ptr(&self) -> *mut rd::rd_kafka_topic_partition_list_t {
        self.0
    }

    /// What librdkafka left in the list.
    pub(super) fn read(&self) -> Vec<PartitionOffset> {
        // SAFETY: a live list.
        unsafe { read(self.0) }
    }

    /// The first entry with an error, as an error.
    pub(super) fn check(&self, what: &str) -> Result<(), KafkaError> {
        match self.read().into_iter().find(|entry| entry.code != Code::NONE) {
            None => Ok(()),
            Some(entry) => Err(entry.code.error(&format!("{what} of {}", entry.partition))),
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

/// Copies a list of librdkafka's.
///
/// # Safety
/// `list` is null or a live list.
pub(super) unsafe fn read(list: *const rd::rd_kafka_topic_partition_list_t) -> Vec<PartitionOffset> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: a live list has `cnt` entries.
    let entries = unsafe {
        match usize::try_from((*list).cnt) {
            Ok(count) if count > 0 => std::slice::from_raw_parts((*list).elems, count),
            _ => &[],
        }
    };
    let mut topic: Arc<str> = Arc::from("");
    let mut copies = Vec::with_capacity(entries.len());
    for entry in entries {
        // SAFETY: entries have terminated names.
        let name = unsafe { CStr::from_ptr(entry.topic) }.to_string_lossy();
        // Lists are sorted by topic, so a name is allocated once.
        if *topic != *name {
            topic = Arc::from(&*name);
        }
        copies.push(PartitionOffset {
            partition: TopicPartition { topic: Arc::clone(&topic), partition: entry.partition },
            offset: (entry.offset >= 0).then_some(entry.offset),
            code: Code::from(entry.err),
        });
    }
    copies
}
