//! Dead letters: records that cannot become rows go to the storage-failures topic, in one Kafka transaction with the
//! offsets that pass them. So each is there exactly once: before the transaction is committed nobody sees it and it is
//! read again, afterwards it is never read again; and a writer whose partitions have moved commits neither.

use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::OwnedRecord;
use penstock_proto::topics::header;

use crate::batch::Refused;

/// What a writer that died left open is aborted after this long. Until then the partitions' next owner waits.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes letters.
#[derive(Clone, Debug)]
pub(super) struct Letters {
    /// Where they go.
    pub(super) topic: Arc<str>,
    /// Where their records came from.
    pub(super) source_topic: Arc<str>,
}

impl Letters {
    /// The letter of a record; without its payload and key unless `whole`.
    pub(super) fn write(&self, refused: &Refused, whole: bool) -> OwnedRecord {
        let (partition, offset) = (refused.partition.to_string(), refused.offset.to_string());
        OwnedRecord {
            topic: Arc::clone(&self.topic),
            partition: None,
            key: refused.key.as_deref().filter(|_| whole).map(<[u8]>::to_vec),
            payload: Some(if whole { refused.payload.to_vec() } else { Vec::new() }),
            headers: vec![
                (header::REASON, refused.invalid.reason.name().into()),
                (header::DETAIL, detail(refused, whole).into()),
                (header::SOURCE_TOPIC, self.source_topic.as_bytes().into()),
                (header::SOURCE_PARTITION, partition.into()),
                (header::SOURCE_OFFSET, offset.into()),
            ],
        }
    }
}

fn detail(refused: &Refused, whole: bool) -> String {
    let Refused { payload, invalid, .. } = refused;
    if whole {
        return invalid.detail.to_string();
    }
    format!(
        "{} (the value of {} bytes is too large for this topic: read it at its source)",
        invalid.detail,
        payload.len()
    )
}
