//! `penstock dlq replay` and `penstock dlq discard`: letters that are open are published again, or marked as not
//! wanted.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

use penstock_proto::topics::DEAD_LETTERS_HANDLED;
use penstock_service::Config;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::judge::{judge, limits};
use super::letter::Letter;
use super::list::{count, print_counts};
use super::publish::{Deed, Publisher, Written};
use super::{Selection, State, each_letter, handled, handled_if_any};
use crate::text::{counted, thousands};
use crate::{Cluster, OperatorError, Progress};

/// Bytes of letters in one transaction, except that one letter may have more.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What to do with letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Publish them again, as far as they are valid now.
    Replay,
    /// Mark them as not wanted.
    Discard,
}

/// Something to do with the letters that are meant.
#[derive(Clone, Debug)]
pub struct Task {
    /// What.
    pub work: Work,
    /// With which letters.
    pub selection: Selection,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was done; with a dry run: what would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Nothing was written.
    pub dry_run: bool,
    /// It was ended before it was through.
    pub interrupted: bool,
    /// Letters that were published again or discarded.
    pub done: u64,
    /// Records that were written to the readings topic.
    pub records: u64,
    /// Dead letters for single readings of a batch that are still invalid.
    pub new_letters: u64,
    /// Letters that were handled before.
    pub handled_before: u64,
    /// Letters that stay open because they are still refused, by reason.
    pub still_refused: BTreeMap<String, u64>,
    /// Letters that stay open because they are records of an alert topic, which are not published again.
    pub alerts: u64,
    /// Letters that were asked for by id and are not there, or do not meet the other conditions.
    pub not_found: u64,
    #[serde(skip)]
    is_discard: bool,
}

impl Task {
    /// Does it, a batch of letters after the other, until it is through or `cancel` is. What a batch does is done
    /// whole or not at all, and never twice: ended in whatever way, the task can simply be run again.
    ///
    /// Call it on a thread that may block; `runtime` runs what is asynchronous.
    ///
    /// # Errors
    /// [`OperatorError`]; batches that were done before stay done.
    pub fn run(
        &self,
        config: &Config,
        runtime: &Handle,
        cancel: &CancellationToken,
    ) -> Result<Outcome, OperatorError> {
        let cluster = Cluster::new(config);
        let (publisher, handled) = if self.dry_run {
            (None, handled_if_any(&cluster)?)
        } else {
            cluster.provide(DEAD_LETTERS_HANDLED, runtime)?;
            let publisher = Publisher::open(&cluster, cancel)?;
            // Only now: nobody else writes marks any more.
            (Some(publisher), handled(&cluster)?)
        };
        let mut run = Run {
            task: self,
            limits: limits(&config.bridge),
            publisher,
            outcome: Outcome {
                dry_run: self.dry_run,
                is_discard: self.work == Work::Discard,
                ..Outcome::default()
            },
            progress: Progress::start(),
        };
        let mut found = 0u64;
        let broke = each_letter(&cluster, &self.selection, |letters| {
            let mut open = Vec::new();
            for letter in letters {
                found += 1;
                match handled.state(letter.id) {
                    State::Open => open.push(letter),
                    State::Replayed | State::Discarded => run.outcome.handled_before += 1,
                }
            }
            run.letters(&open, cancel)
        })?;
        run.outcome.interrupted = broke.is_some();
        if !run.outcome.interrupted {
            run.outcome.not_found = (self.selection.ids.len() as u64).saturating_sub(found);
        }
        Ok(run.outcome)
    }
}

struct Run<'t> {
    task: &'t Task,
    limits: penstock_proto::Limits,
    publisher: Option<Publisher>,
    outcome: Outcome,
    progress: Progress,
}

impl Run<'_> {
    fn letters(
        &mut self,
        letters: &[&Letter<'_>],
        cancel: &CancellationToken,
    ) -> Result<ControlFlow<()>, OperatorError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for letter in letters {
            let deed = match self.task.work {
                Work::Discard => Deed::Discard,
                // Whoever reads alerts would tell people once more.
                Work::Replay if letter.is_of_alert() => {
                    self.outcome.alerts += 1;
                    continue;
                }
                Work::Replay => match judge(letter, &self.limits) {
                    Ok(publishable) => Deed::Replay(publishable),
                    Err(invalid) => {
                        count(&mut self.outcome.still_refused, invalid.reason.name());
                        continue;
                    }
                },
            };
            if bytes > 0 && bytes + letter.payload.len() > BATCH_BYTES_MAX {
                if cancel.is_cancelled() {
                    return Ok(ControlFlow::Break(()));
                }
                self.write(&batch)?;
                (batch, bytes) = (Vec::new(), 0);
            }
            bytes += letter.payload.len();
            batch.push((*letter, deed));
        }
        if cancel.is_cancelled() {
            return Ok(ControlFlow::Break(()));
        }
        self.write(&batch)?;
        Ok(ControlFlow::Continue(()))
    }

    fn write(&mut self, batch: &[(&Letter<'_>, Deed<'_>)]) -> Result<(), OperatorError> {
        if batch.is_empty() {
            return Ok(());
        }
        let written = match &mut self.publisher {
            Some(publisher) => publisher.write(batch)?,
            None => foreseen(batch),
        };
        self.outcome.done += batch.len() as u64;
        self.outcome.records += written.records;
        self.outcome.new_letters += written.dead_letters;
        let (done, is_discard) = (self.outcome.done, self.outcome.is_discard);
        self.progress.tick(|seconds| {
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = done as f64 / seconds;
            let action = if is_discard { "discarded" } else { "replayed" };
            format!("{} {action}, {rate:.0}/s", counted(done, "letter"))
        });
        Ok(())
    }
}

fn foreseen(batch: &[(&Letter<'_>, Deed<'_>)]) -> Written {
    let mut written = Written::default();
    for (_, deed) in batch {
        if let Deed::Replay(publishable) = deed {
            written.records += publishable.readings.len() as u64;
            written.dead_letters += publishable.invalid.len() as u64;
        }
    }
    written
}

impl Outcome {
    /// Whether everything that was asked for was done.
    pub const fn is_complete(&self) -> bool {
        !self.interrupted && self.not_found == 0
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let would = if self.dry_run { "would be " } else { "" };
        let done = counted(self.done, "letter");
        if self.is_discard {
            writeln!(out, "{done} {would}discarded")?;
        } else {
            writeln!(out, "{done} {would}replayed as {}", counted(self.records, "record"))?;
        }
        if self.new_letters > 0 {
            let new = counted(self.new_letters, "new letter");
            writeln!(out, "{new} for readings of batches that are still invalid")?;
        }
        if self.handled_before > 0 {
            writeln!(out, "{} handled before", thousands(self.handled_before))?;
        }
        if !self.still_refused.is_empty() {
            let refused = self.still_refused.values().sum();
            writeln!(out, "{} still refused, and open:", thousands(refused))?;
            print_counts(out, &self.still_refused)?;
        }
        if self.alerts > 0 {
            let alerts = counted(self.alerts, "alert");
            writeln!(
                out,
                "{alerts} not published again, and open: people would be told twice; discard when looked at"
            )?;
        }
        if self.not_found > 0 {
            let not_found = counted(self.not_found, "letter");
            writeln!(out, "{not_found} not found: `penstock dlq list --all` shows what there is")?;
        }
        if self.interrupted {
            writeln!(out, "interrupted: run the same command again to go on; nothing is published twice")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_what_was_done_and_what_is_left() {
        let mut outcome = Outcome { done: 1_200, records: 1_201, ..Outcome::default() };
        outcome.still_refused = [("too-old".to_owned(), 3), ("undecodable".to_owned(), 20)].into();
        outcome.handled_before = 7;
        let mut text = Vec::new();
        outcome.print(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "1,200 letters replayed as 1,201 records\n7 handled before\n23 still refused, and open:\n  \
             undecodable  20\n  too-old      3\n"
        );
        assert!(outcome.is_complete(), "what is still refused stays open: that is no failure");
        outcome.interrupted = true;
        assert!(!outcome.is_complete());
    }
}
