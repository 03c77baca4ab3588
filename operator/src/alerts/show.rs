//! `penstock alerts show`: everything about one episode.

use std::collections::VecDeque;
use std::io::{self, Write};

use penstock_notifier::controls::{Ack, Silence};
use penstock_proto::alert_json::{from_json, to_json};
use serde::Serialize;
use serde_json::Value;

use super::list::{Entry, state};
use super::{controls, each_batch};
use crate::text::{columns, counted, printable};
use crate::{Cluster, Moment, OperatorError, rfc3339};

/// Records of one episode that are shown; of more, the newest.
const RECORDS_MAX: usize = 1_000;

/// A record of an episode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recorded {
    /// Its topic, without the configured prefix.
    pub topic: &'static str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// When it was written, RFC 3339.
    pub written: String,
    /// The alert as it is in the topic.
    pub alert: Value,
}

/// Everything about an episode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// How it is.
    pub episode: Entry,
    /// Its acknowledgement.
    pub acknowledgement: Option<Ack>,
    /// The silence that holds now and is about it.
    pub silence: Option<Silence>,
    /// Its records, oldest first.
    pub records: Vec<Recorded>,
    /// Older records that are not shown.
    pub records_left_out: u64,
}

/// Reads an episode.
///
/// # Errors
/// [`OperatorError::NoAlert`] if no record has the id; otherwise as [`super::list`].
pub fn show(cluster: &Cluster, id: &str) -> Result<Shown, OperatorError> {
    let (mut records, mut left_out, mut last) = (VecDeque::new(), 0u64, None);
    each_batch(cluster, |topic, batch| {
        for record in batch {
            let Some(alert) = from_json(record.payload).ok().filter(|alert| alert.id == id) else { continue };
            if records.len() == RECORDS_MAX {
                records.pop_front();
                left_out += 1;
            }
            records.push_back(Recorded {
                topic,
                partition: record.partition,
                offset: record.offset,
                written: rfc3339(record.timestamp_ms),
                alert: serde_json::from_str(&to_json(&alert)).unwrap_or_default(),
            });
            last = Some(alert);
        }
    })?;
    let alert = last.ok_or_else(|| OperatorError::NoAlert(id.to_owned()))?;
    let controls = controls(cluster)?;
    let now = Moment::now();
    Ok(Shown {
        episode: Entry::of(&alert, &controls, now),
        acknowledgement: controls.ack(id).cloned(),
        silence: controls.silencing(&alert, now.ms).map(|(_, silence)| silence.clone()),
        records: records.into(),
        records_left_out: left_out,
    })
}

impl Shown {
    /// Writes it for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Entry { id, state: is, severity, rule, device, onset, time, text, .. } = &self.episode;
        let mut rows = vec![
            ("alert", id.clone()),
            ("state", (*is).to_owned()),
            ("severity", (*severity).to_owned()),
            ("rule", rule.clone()),
            ("device", device.clone()),
            ("since", onset.clone()),
            ("last heard of", time.clone()),
            ("text", text.clone()),
        ];
        if !self.episode.reason.is_empty() {
            rows.push(("reason", self.episode.reason.clone()));
        }
        if let Some(ack) = &self.acknowledgement {
            rows.push(("acknowledged", said(&ack.by, ack.at.map(|at| at.as_millisecond()), &ack.comment)));
        }
        if let (Some(silence), Some(id)) = (&self.silence, &self.episode.silenced_by) {
            let until = rfc3339(silence.until.as_millisecond());
            let said = said(&silence.by, silence.at.map(|at| at.as_millisecond()), &silence.comment);
            rows.push(("silenced", format!("by {id} until {until}, {said}")));
        }
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(name, value)| vec![name.to_owned(), printable(value.as_bytes(), 1_000)])
            .collect();
        for line in columns(&rows) {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "\n{}", counted(self.records.len() as u64 + self.records_left_out, "record"))?;
        let row = |record: &Recorded| {
            let alert = from_json(record.alert.to_string().as_bytes()).unwrap_or_default();
            vec![
                format!("  {}/{}/{}", record.topic, record.partition, record.offset),
                record.written.clone(),
                state(alert.state()).to_owned(),
                format!(
                    "value {} threshold {} readings {}",
                    alert.value, alert.threshold, alert.reading_count
                ),
                format!("from reading {}/{}", alert.source_partition, alert.source_offset),
            ]
        };
        columns(&self.records.iter().map(row).collect::<Vec<_>>())
            .iter()
            .try_for_each(|line| writeln!(out, "{line}"))
    }
}

fn said(by: &str, at_ms: Option<i64>, comment: &str) -> String {
    let at = at_ms.map_or_else(|| "an unknown time".to_owned(), rfc3339);
    let comment = if comment.is_empty() { String::new() } else { format!(": {comment}") };
    format!("by {} at {at}{comment}", if by.is_empty() { "somebody" } else { by })
}
