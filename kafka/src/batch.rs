//! Records as librdkafka delivered them: borrowed, not copied, freed with the batch.

use std::ffi::c_void;
use std::fmt;
use std::ptr;

use crate::sys::{Message, Messages};

/// Records of one poll, in the order of their partitions. Their memory is given back when it is dropped.
pub struct Batch<'c> {
    messages: &'c mut Messages,
}

impl<'c> Batch<'c> {
    /// All messages must be records.
    pub(crate) const fn new(messages: &'c mut Messages) -> Self {
        Self { messages }
    }

    /// Number of records.
    pub const fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no record at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every record, once.
    pub const fn iter(&self) -> Records<'_> {
        Records { messages: self.messages, next: 0, topic_id: ptr::null(), topic: "" }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.messages.clear();
    }
}

impl<'b> IntoIterator for &'b Batch<'_> {
    type Item = IncomingRecord<'b>;
    type IntoIter = Records<'b>;

    fn into_iter(self) -> Records<'b> {
        self.iter()
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish()
    }
}

/// Iterator over the records of a [`Batch`].
pub struct Records<'b> {
    messages: &'b Messages,
    next: usize,
    /// The topic of the record before: its name is read once for a run of records.
    topic_id: *const c_void,
    topic: &'b str,
}

impl<'b> Iterator for Records<'b> {
    type Item = IncomingRecord<'b>;

    fn next(&mut self) -> Option<IncomingRecord<'b>> {
        let message = self.messages.get(self.next)?;
        self.next += 1;
        if message.topic_id() != self.topic_id {
            self.topic_id = message.topic_id();
            self.topic = message.topic();
        }
        let payload = message.payload();
        Some(IncomingRecord {
            topic: self.topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp_ms(),
            key: message.key(),
            payload: payload.unwrap_or_default(),
            is_tombstone: payload.is_none(),
            message,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.messages.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Records<'_> {}

/// One record, borrowed from its [`Batch`].
#[derive(Clone, Copy)]
pub struct IncomingRecord<'b> {
    /// Name of the topic.
    pub topic: &'b str,
    /// Number of the partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch; -1 if the record has none.
    pub timestamp_ms: i64,
    /// The key, if it has one.
    pub key: Option<&'b [u8]>,
    /// The value; empty if it is null, see [`Self::is_tombstone`].
    pub payload: &'b [u8],
    /// Whether the value is null: on a compacted topic the key is deleted.
    pub is_tombstone: bool,
    message: Message<'b>,
}

impl<'b> IncomingRecord<'b> {
    /// The headers in the order they were written; a null value is empty. A name that is not UTF-8 is left out.
    ///
    /// Headers are parsed on the first call; records that nobody asks for them cost nothing.
    pub fn headers(&self) -> Vec<(&'b str, &'b [u8])> {
        self.message.headers()
    }

    /// The value of the last header of that name.
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers().into_iter().rev().find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}

impl fmt::Debug for IncomingRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingRecord")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}
