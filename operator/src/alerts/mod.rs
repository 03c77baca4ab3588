//! Alerts as the alert topics have them, and what people say about them: silences and acknowledgements.
//!
//! Reads committed records only, and holds no more than it shows and what fires.

mod control;
mod fold;
mod list;
mod show;

pub use control::{Acknowledged, NewSilence, Silenced, Silences, ack, silence, silences, unack, unsilence};
pub use list::{Alerts, Entry, Filter, StateFilter, list};
pub use show::{Shown, show};

use std::ops::ControlFlow;

use penstock_kafka::{Batch, ScanFrom};
use penstock_notifier::controls::Controls;
use penstock_proto::topics::{ALERT_CONTROLS, DEVICE_ALERTS, LOW_BATTERY};

use crate::{Cluster, OperatorError};

/// Records taken at once.
const RECORDS_MAX: usize = 5_000;

/// Everything that is said about alerts now; nothing, if nobody has run Penstock here yet.
fn controls(cluster: &Cluster) -> Result<Controls, OperatorError> {
    let mut controls = Controls::default();
    let folded = cluster.scan(ALERT_CONTROLS, &ScanFrom::Beginning, RECORDS_MAX, |batch| {
        for record in batch {
            // What is not understood holds nothing back; the role counts and logs it.
            let _ = controls.fold(record.key, (!record.is_tombstone).then_some(record.payload));
        }
        Ok(ControlFlow::<()>::Continue(()))
    });
    match folded {
        Ok(_) | Err(OperatorError::NoTopic(_)) => Ok(controls),
        Err(error) => Err(error),
    }
}

/// Reads both topics of alerts.
fn each_batch(
    cluster: &Cluster,
    mut each: impl FnMut(&'static str, &Batch<'_>),
) -> Result<(), OperatorError> {
    for topic in [DEVICE_ALERTS, LOW_BATTERY] {
        cluster.scan(topic, &ScanFrom::Beginning, RECORDS_MAX, |batch| {
            each(topic, batch);
            Ok(ControlFlow::<()>::Continue(()))
        })?;
    }
    Ok(())
}
