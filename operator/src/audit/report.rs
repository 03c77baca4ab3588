//! What an audit found: breaches one by one, counts, and a verdict.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::rfc3339;
use crate::text::{columns, counted, thousands};

/// What is wrong at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A record that is neither a row nor a dead letter.
    Missing,
    /// More than one row from the same record.
    DoubledRow,
    /// More than one dead letter for the same record.
    DoubledLetter,
    /// A row and a dead letter from the same record.
    RowAndLetter,
    /// A row where Kafka has no record.
    RowWithoutRecord,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Missing, Self::DoubledRow, Self::DoubledLetter, Self::RowAndLetter, Self::RowWithoutRecord];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::DoubledRow => "doubled-row",
            Self::DoubledLetter => "doubled-letter",
            Self::RowAndLetter => "row-and-letter",
            Self::RowWithoutRecord => "row-without-record",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Missing => "read the record from Kafka while its retention lasts, and publish it again",
            Self::DoubledRow => {
                "query readings_unique; OPTIMIZE TABLE readings FINAL merges rows of one reading"
            }
            Self::DoubledLetter => "replay one of the letters at most, discard the other",
            Self::RowAndLetter => "discard the letter: the reading is stored",
            Self::RowWithoutRecord => {
                "find out who else inserts, or whether the topic was created anew; then delete the row"
            }
        }
    }
}

/// Something wrong at one offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// What.
    pub kind: Kind,
    /// Partition of the readings topic.
    pub partition: u32,
    /// Offset in it.
    pub offset: u64,
    /// Whose reading it is, where that is known.
    pub device: Option<String>,
    /// More about it, for people.
    pub detail: String,
    /// What to do.
    pub remedy: &'static str,
}

impl Breach {
    pub(crate) fn new(kind: Kind, partition: u32, offset: u64, detail: impl Into<String>) -> Self {
        Self { kind, partition, offset, device: None, detail: detail.into(), remedy: kind.remedy() }
    }

    pub(crate) fn of_device(mut self, device: &impl ToString) -> Self {
        self.device = Some(device.to_string());
        self
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Self { kind, partition, offset, device, detail, remedy } = self;
        let device = device.as_deref().unwrap_or("-");
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        format!("partition {partition} offset {offset} device {device}: {}{detail}: {remedy}", kind.name())
    }
}

/// The offsets of one partition that are audited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionRange {
    /// Which partition.
    pub partition: u32,
    /// The first offset.
    pub from: u64,
    /// The first offset that is not audited any more.
    pub to: u64,
    /// What the writer's group has committed: offsets from there on are not its work yet.
    pub committed: Option<u64>,
    /// The oldest offset that Kafka has.
    pub low: u64,
    /// The first offset that readers of committed records do not get yet.
    pub high: u64,
}

/// What stands where there is nothing wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Offsets without a record: markers of transactions, records of aborted ones, records deleted meanwhile.
    pub without_record: u64,
    /// Records of readings that were sent again: their row has the offset of another record of the same reading.
    pub resent: u64,
    /// Records of readings that are older than the table keeps them.
    pub expired: u64,
    /// Rows whose record was deleted by its retention while the audit ran.
    pub deleted_meanwhile: u64,
    /// Letters whose headers do not say where they come from.
    pub letters_without_source: u64,
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The topic.
    pub topic: String,
    /// The writer's group.
    pub group: String,
    /// From when on, RFC 3339.
    pub from: Option<String>,
    /// Until when, RFC 3339.
    pub to: Option<String>,
    /// Which offsets.
    pub ranges: Vec<PartitionRange>,
    /// How many offsets that are.
    pub offsets: u64,
    /// Records at them.
    pub records: u64,
    /// Rows at them.
    pub rows: u64,
    /// Dead letters of storage for them.
    pub letters: u64,
    /// What is as it must be although it does not look so.
    pub explained: Explained,
    /// How many breaches there are of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// The first of them.
    pub breaches: Vec<Breach>,
    /// Whether there is no breach.
    pub holds: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
    #[serde(skip)]
    breaches_max: usize,
}

impl Report {
    pub(crate) fn new(
        topic: String,
        group: String,
        window: (Option<i64>, Option<i64>),
        ranges: Vec<PartitionRange>,
        breaches_max: usize,
    ) -> Self {
        Self {
            topic,
            group,
            from: window.0.map(rfc3339),
            to: window.1.map(rfc3339),
            ranges,
            offsets: 0,
            records: 0,
            rows: 0,
            letters: 0,
            explained: Explained::default(),
            counts: BTreeMap::new(),
            breaches: Vec::new(),
            holds: true,
            seconds: 0.0,
            breaches_max,
        }
    }

    /// How many more breaches are kept.
    pub(crate) fn room(&self) -> usize {
        self.breaches_max - self.breaches.len()
    }

    pub(crate) fn breach(&mut self, breach: Breach) {
        self.more(breach.kind, 1);
        if self.room() > 0 {
            self.breaches.push(breach);
        }
    }

    /// Counts breaches that are not kept.
    pub(crate) fn more(&mut self, kind: Kind, count: u64) {
        if count > 0 {
            self.holds = false;
            *self.counts.entry(kind).or_default() += count;
        }
    }

    /// Writes it for people: ranges, breaches, counts, verdict.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        self.print_ranges(out)?;
        for breach in &self.breaches {
            writeln!(out, "{}", breach.line())?;
        }
        let found: u64 = self.counts.values().sum();
        if found > self.breaches.len() as u64 {
            let left = found - self.breaches.len() as u64;
            writeln!(
                out,
                "… and {}; --breaches-max shows more",
                counted(left, "more breach").replace("breachs", "breaches")
            )?;
        }
        let Explained { without_record, resent, expired, deleted_meanwhile, letters_without_source } =
            self.explained;
        let mut rows = vec![
            ("offsets", self.offsets),
            ("records", self.records),
            ("rows", self.rows),
            ("dead letters", self.letters),
        ];
        let explained = [
            ("offsets without a record (transactions, deleted)", without_record),
            ("sent again, stored once", resent),
            ("older than the table keeps", expired),
            ("record deleted while this ran", deleted_meanwhile),
            ("letters that do not say where from", letters_without_source),
        ];
        rows.extend(explained.into_iter().filter(|(_, count)| *count > 0));
        rows.extend(self.counts.iter().map(|(kind, count)| (kind.name(), *count)));
        let rows: Vec<_> =
            rows.into_iter().map(|(name, count)| vec![format!("  {name}"), thousands(count)]).collect();
        columns(&rows).into_iter().try_for_each(|line| writeln!(out, "{line}"))?;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate for people"
        )]
        let rate = (self.offsets as f64 / self.seconds.max(0.001)) as u64;
        writeln!(out, "  {:.1} s, {} offsets/s", self.seconds, thousands(rate))?;
        if self.holds {
            writeln!(out, "holds: every record is exactly one row or one dead letter")
        } else {
            writeln!(out, "FALSIFIED at {}", counted(found, "offset"))
        }
    }

    fn print_ranges(&self, out: &mut dyn Write) -> io::Result<()> {
        let since = self.from.as_deref().unwrap_or("the oldest record");
        let until = self.to.as_deref().unwrap_or("what the writer has committed");
        writeln!(out, "{}, writer {}, from {since} to {until}", self.topic, self.group)?;
        let cells: Vec<String> = self
            .ranges
            .iter()
            .filter(|range| range.from < range.to)
            .map(|range| format!("  {}: {}-{}", range.partition, range.from, range.to - 1))
            .collect();
        if cells.is_empty() {
            return writeln!(out, "  no offsets in this range");
        }
        let rows: Vec<_> = cells.chunks(4).map(<[String]>::to_vec).collect();
        columns(&rows).into_iter().try_for_each(|line| writeln!(out, "{line}"))?;
        for range in self.ranges.iter().filter(|range| range.committed.is_none() && range.low < range.high) {
            writeln!(out, "  {}: the writer has committed nothing there yet", range.partition)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaches_are_kept_up_to_a_number_and_all_are_counted() {
        let range = PartitionRange { partition: 3, from: 5, to: 10, committed: Some(10), low: 0, high: 12 };
        let mut report = Report::new("t".into(), "g".into(), (None, Some(0)), vec![range], 2);
        assert!(report.holds);
        for offset in 5..9 {
            report.breach(Breach::new(Kind::Missing, 3, offset, "why").of_device(&"d"));
        }
        assert_eq!((report.breaches.len(), report.counts[&Kind::Missing], report.holds), (2, 4, false));
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("t, writer g, from the oldest record to 1970-01-01T00:00:00.000Z\n  3: 5-9\n"),
            "{text}"
        );
        assert!(text.contains("partition 3 offset 6 device d: missing (why): read the record"), "{text}");
        assert!(text.contains("… and 2 more breaches"), "{text}");
        assert!(text.ends_with("FALSIFIED at 4 offsets\n"), "{text}");
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_that_json_uses() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
