//! `penstock dlq list`: the newest letters, and how many there are by reason.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::{Serialize, Serializer};

use super::letter::Letter;
use super::{LetterId, Selection, State, each_letter, handled_if_any};
use crate::text::{columns, counted, thousands};
use crate::{Cluster, OperatorError, Progress, rfc3339};

/// Characters of a detail that are kept.
const DETAIL_CHARS_MAX: usize = 200;
/// Characters of a detail in a table.
const DETAIL_CHARS_SHOWN: usize = 60;

/// What to list.
#[derive(Clone, Debug)]
pub struct List {
    /// Which letters.
    pub selection: Selection,
    /// Also those that were replayed or discarded.
    pub all: bool,
    /// Hand out the newest so many; all are counted.
    pub limit: usize,
}

/// A letter in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Which letter.
    #[serde(serialize_with = "as_text")]
    pub id: LetterId,
    /// When it was stored, RFC 3339.
    pub time: String,
    /// Why; `(none)` where no header says so.
    pub reason: String,
    /// Whose it is, where key or MQTT topic say so.
    pub device: Option<String>,
    /// Bytes of the payload.
    pub bytes: usize,
    /// What was wrong, at most 200 characters.
    pub detail: String,
    /// What has been done with it.
    pub state: State,
}

fn as_text<S: Serializer>(id: &LetterId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl Entry {
    pub(super) fn of(letter: &Letter<'_>, state: State) -> Self {
        Self {
            id: letter.id,
            time: rfc3339(letter.timestamp_ms),
            reason: letter.reason(),
            device: letter.device().map(|device| device.to_string()),
            bytes: letter.payload.len(),
            detail: letter.detail(DETAIL_CHARS_MAX),
            state,
        }
    }
}

/// Letters and their counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The newest, newest first.
    pub letters: Vec<Entry>,
    /// How many there are.
    pub count: u64,
    /// How many there are by reason.
    pub by_reason: BTreeMap<String, u64>,
    /// How many there are by what has been done with them.
    pub by_state: BTreeMap<State, u64>,
}

/// Reasons that are counted apart; a stranger could write one a record.
const REASONS_MAX: usize = 100;
const OTHER_REASONS: &str = "(other)";

/// Adds one to the count of a reason.
pub(super) fn count(by_reason: &mut BTreeMap<String, u64>, reason: &str) {
    let known = by_reason.len() < REASONS_MAX || by_reason.contains_key(reason);
    *by_reason.entry(if known { reason } else { OTHER_REASONS }.to_owned()).or_default() += 1;
}

/// Keeps the newest letters, counts all.
#[derive(Default)]
struct Newest {
    entries: BTreeMap<(i64, LetterId), Entry>,
    listing: Listing,
}

impl Newest {
    fn add(&mut self, letter: &Letter<'_>, state: State, limit: usize) {
        self.listing.count += 1;
        count(&mut self.listing.by_reason, &letter.reason());
        *self.listing.by_state.entry(state).or_default() += 1;
        let key = (letter.timestamp_ms, letter.id);
        if self.entries.len() >= limit && self.entries.first_key_value().is_none_or(|(first, _)| key < *first)
        {
            return;
        }
        self.entries.insert(key, Entry::of(letter, state));
        if self.entries.len() > limit {
            self.entries.pop_first();
        }
    }

    fn finish(self) -> Listing {
        Listing { letters: self.entries.into_values().rev().collect(), ..self.listing }
    }
}

impl List {
    /// Reads the letters that are meant. Memory grows with `limit` and with the number of marks.
    ///
    /// # Errors
    /// [`OperatorError`] if Kafka cannot be read or a topic is not there.
    pub fn read(&self, cluster: &Cluster) -> Result<Listing, OperatorError> {
        let mut progress = Progress::start();
        let handled = handled_if_any(cluster)?;
        let (mut newest, mut looked_at) = (Newest::default(), 0u64);
        each_letter(cluster, &self.selection, |letters| {
            for letter in letters {
                looked_at += 1;
                let state = handled.state(letter.id);
                if self.all || state == State::Open {
                    newest.add(letter, state, self.limit);
                }
            }
            progress.tick(|_| format!("{} read", counted(looked_at, "letter")));
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        Ok(newest.finish())
    }
}

impl Listing {
    /// Writes a table and the counts, for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.count == 0 {
            return writeln!(out, "no such letters");
        }
        let heads = ["ID", "TIME", "REASON", "DEVICE", "BYTES", "STATE", "DETAIL"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.letters.iter().map(|entry| {
            vec![
                entry.id.to_string(),
                entry.time.clone(),
                entry.reason.clone(),
                entry.device.clone().unwrap_or_else(|| "-".to_owned()),
                thousands(entry.bytes as u64),
                entry.state.name().to_owned(),
                cut(&entry.detail, DETAIL_CHARS_SHOWN),
            ]
        }));
        for line in columns(&rows) {
            writeln!(out, "{line}")?;
        }
        let states: Vec<_> = self
            .by_state
            .iter()
            .map(|(state, count)| format!("{} {}", thousands(*count), state.name()))
            .collect();
        writeln!(out, "\n{}: {}", counted(self.count, "letter"), states.join(", "))?;
        if (self.letters.len() as u64) < self.count {
            writeln!(out, "the newest {} are shown; --limit shows more", self.letters.len())?;
        }
        print_counts(out, &self.by_reason)
    }
}

/// Writes counts by reason, the largest first.
pub(super) fn print_counts(out: &mut dyn Write, by_reason: &BTreeMap<String, u64>) -> io::Result<()> {
    let mut counts: Vec<_> = by_reason.iter().collect();
    counts.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), *reason));
    let rows: Vec<_> =
        counts.into_iter().map(|(reason, count)| vec![format!("  {reason}"), thousands(*count)]).collect();
    columns(&rows).into_iter().try_for_each(|line| writeln!(out, "{line}"))
}

fn cut(text: &str, chars_max: usize) -> String {
    crate::text::printable(text.as_bytes(), chars_max)
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::header;

    use super::super::LetterTopic;
    use super::super::letter::tests::letter;
    use super::*;

    #[test]
    fn the_newest_are_kept_and_all_are_counted() {
        let mut newest = Newest::default();
        for offset in 0..10i64 {
            let reason = if offset % 2 == 0 { "too-old" } else { "empty" };
            let headers: &[(&str, &[u8])] = &[(header::REASON, reason.as_bytes())];
            let mut letter = letter(LetterTopic::Readings, b"xy", headers);
            letter.id.offset = offset;
            letter.timestamp_ms = (offset * 7) % 10;
            newest.add(&letter, State::Open, 3);
        }
        let listing = newest.finish();
        let times: Vec<_> = listing.letters.iter().map(|entry| entry.time.as_str()).collect();
        assert_eq!(
            times,
            ["1970-01-01T00:00:00.009Z", "1970-01-01T00:00:00.008Z", "1970-01-01T00:00:00.007Z"]
        );
        assert_eq!(listing.count, 10);
        assert_eq!(listing.by_reason, [("empty".to_owned(), 5), ("too-old".to_owned(), 5)].into());
        assert_eq!(listing.by_state, [(State::Open, 10)].into());
        let mut text = Vec::new();
        listing.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("readings/0/7  1970-01-01T00:00:00.009Z  empty"), "{text}");
        assert!(text.contains("10 letters: 10 open\nthe newest 3 are shown"), "{text}");
    }

    #[test]
    fn a_limit_of_nothing_still_counts() {
        let mut newest = Newest::default();
        newest.add(&letter(LetterTopic::Storage, b"", &[]), State::Open, 0);
        let listing = newest.finish();
        assert_eq!((listing.letters.len(), listing.count), (0, 1));
    }

    #[test]
    fn strangers_cannot_make_the_counts_grow_without_bound() {
        let mut by_reason = BTreeMap::new();
        (0..1_000).for_each(|number| count(&mut by_reason, &format!("reason-{number}")));
        assert_eq!(by_reason.len(), REASONS_MAX + 1);
        assert_eq!(by_reason.values().sum::<u64>(), 1_000);
    }
}
