//! Dead letters: which there are, what is in them, publish them again or discard them.
//!
//! Never deletes a letter: what has been done with one is a mark in
//! [`penstock_proto::topics::DEAD_LETTERS_HANDLED`]. A replay writes records and their marks in one Kafka transaction,
//! under one transactional id for all replays of a cluster and topic prefix, and reads the marks only after it has
//! fenced whoever had the id before: so no letter is published twice, whatever ends a replay, and however many run.

mod decode;
mod handled;
mod id;
mod judge;
mod letter;
mod list;
mod publish;
mod replay;
mod select;
mod show;

use std::ops::ControlFlow;

use penstock_kafka::ScanFrom;
use penstock_proto::topics::DEAD_LETTERS_HANDLED;

pub use handled::State;
pub use id::{LetterId, LetterTopic, ParseIdError};
pub use list::{Entry, List, Listing};
pub use replay::{Outcome, Task, Work};
pub use select::Selection;
pub use show::{Shown, show};

use crate::{Cluster, OperatorError};
use handled::Handled;
pub(crate) use letter::Letter;

/// Records that are asked of Kafka at once: up to 32 MiB of them are held by the client.
const RECORDS_AT_ONCE: usize = 500;

/// What has been done with which letter, as of now.
fn handled(cluster: &Cluster) -> Result<Handled, OperatorError> {
    let mut handled = Handled::default();
    cluster.scan(DEAD_LETTERS_HANDLED, &ScanFrom::Beginning, RECORDS_AT_ONCE, |batch| {
        for record in batch {
            let value = (!record.is_tombstone).then_some(record.payload);
            handled.fold(record.key.unwrap_or_default(), value);
        }
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    Ok(handled)
}

/// The same for commands that change nothing: a cluster of an older version has no such topic.
fn handled_if_any(cluster: &Cluster) -> Result<Handled, OperatorError> {
    match handled(cluster) {
        Err(OperatorError::NoTopic(_)) => Ok(Handled::default()),
        result => result,
    }
}

/// Reads the letters that are meant, some at a time, until `each` breaks.
fn each_letter<B>(
    cluster: &Cluster,
    selection: &Selection,
    mut each: impl FnMut(&[Letter<'_>]) -> Result<ControlFlow<B>, OperatorError>,
) -> Result<Option<B>, OperatorError> {
    for (topic, from) in selection.starts() {
        let mut open = selection.ids.iter().filter(|id| id.topic == topic).count();
        let broke = cluster.scan(topic.topic(), &from, RECORDS_AT_ONCE, |batch| {
            let letters: Vec<_> = batch
                .iter()
                .map(|record| Letter::of(topic, &record))
                .filter(|letter| selection.matches(letter))
                .collect();
            if let ControlFlow::Break(found) = each(&letters)? {
                return Ok(ControlFlow::Break(Some(found)));
            }
            // Letters that were asked for by id need no scan to the end.
            open = open.saturating_sub(letters.len());
            let is_done = !selection.ids.is_empty() && open == 0;
            Ok(if is_done { ControlFlow::Break(None) } else { ControlFlow::Continue(()) })
        })?;
        if let Some(Some(found)) = broke {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
