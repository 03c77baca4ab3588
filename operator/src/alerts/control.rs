//! `penstock alerts ack`, `silence`, `unsilence`, `silences`: records of `penstock.alert-controls`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use penstock_kafka::{
    ClientSettings, TransactionError, TransactionRecord, TransactionSettings, TransactionalProducer,
};
use penstock_notifier::controls::{Ack, ControlKey, Silence, TEXT_BYTES_MAX};
use penstock_proto::topics::ALERT_CONTROLS;
use serde::Serialize;
use tokio::runtime::Handle;

use super::list::Entry;
use super::{controls, show};
use crate::text::{columns, printable};
use crate::{Cluster, Moment, OperatorError, rfc3339};

/// One call.
const CALL: Duration = Duration::from_secs(10);
/// How long a record is tried to be written.
const PATIENCE: Duration = Duration::from_secs(45);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What to silence.
#[derive(Clone, Debug)]
pub struct NewSilence {
    /// Only this device.
    pub device: Option<String>,
    /// Only this rule.
    pub rule: Option<String>,
    /// Until when.
    pub until: Moment,
    /// Why; at most 1,000 bytes count.
    pub comment: String,
    /// Who says so.
    pub by: String,
}

/// A silence that was made or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silenced {
    /// Its id.
    pub id: String,
    /// What it is.
    pub silence: Silence,
    /// Whether it holds now.
    pub holds: bool,
}

/// An episode that was acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Acknowledged {
    /// How it is.
    pub episode: Entry,
    /// What was said.
    pub acknowledgement: Ack,
}

/// Every silence that was not taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Silences {
    /// By id.
    pub silences: Vec<Silenced>,
}

/// Writes one record to the topic of controls, and comes back when it is committed. Written twice it says the same, so
/// that whatever goes wrong is simply tried again; two at once take turns.
fn write(
    cluster: &Cluster,
    runtime: &Handle,
    key: &ControlKey,
    value: Option<&[u8]>,
) -> Result<(), OperatorError> {
    cluster.provide(ALERT_CONTROLS, runtime)?;
    let topic = cluster.topic(ALERT_CONTROLS);
    let key = key.to_string();
    let record = TransactionRecord {
        key: Some(key.as_bytes()),
        payload: value,
        ..TransactionRecord::new(&topic, b"")
    };
    let settings = TransactionSettings {
        transactional_id: format!("{}penstock-alert-controls", cluster.prefix),
        ..TransactionSettings::default()
    };
    let began = Instant::now();
    loop {
        let error = match attempt(&cluster.settings, &settings, &record) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_hopeless = matches!(error, TransactionError::Invalid(_) | TransactionError::Record(_));
        if is_hopeless || began.elapsed() >= PATIENCE {
            return Err(OperatorError::NotWritten { topic, cause: error });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

fn attempt(
    client: &ClientSettings,
    settings: &TransactionSettings,
    record: &TransactionRecord<'_>,
) -> Result<(), TransactionError> {
    let mut producer = TransactionalProducer::open(client, settings, CALL)?;
    let mut transaction = producer.begin()?;
    transaction.send(record)?;
    transaction.commit(CALL)
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// Texts of people, bounded.
fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Acknowledges an episode: it is not notified again until it is resolved.
///
/// # Errors
/// [`OperatorError::NoAlert`] if no record has the id; otherwise Kafka could not be read or written.
pub fn ack(
    cluster: &Cluster,
    runtime: &Handle,
    id: &str,
    by: &str,
    comment: &str,
) -> Result<Acknowledged, OperatorError> {
    let mut episode = show(cluster, id)?.episode;
    let ack = Ack { comment: bounded(comment), by: bounded(by), at: Some(now()) };
    let value = serde_json::to_vec(&ack)?;
    write(cluster, runtime, &ControlKey::Ack(id.to_owned()), Some(&value))?;
    episode.acknowledged_by = Some(ack.by.clone());
    Ok(Acknowledged { episode, acknowledgement: ack })
}

/// Takes an acknowledgement back; one that is not there is no error.
///
/// # Errors
/// Kafka could not be read or written.
pub fn unack(cluster: &Cluster, runtime: &Handle, id: &str) -> Result<(), OperatorError> {
    write(cluster, runtime, &ControlKey::Ack(id.to_owned()), None)
}

/// Silences what begins from now on.
///
/// # Errors
/// Kafka could not be read or written.
pub fn silence(cluster: &Cluster, runtime: &Handle, new: &NewSilence) -> Result<Silenced, OperatorError> {
    let silence = Silence {
        device: new.device.clone(),
        rule: new.rule.clone(),
        until: Timestamp::from_millisecond(new.until.ms).unwrap_or(Timestamp::MAX),
        comment: bounded(&new.comment),
        by: bounded(&new.by),
        at: Some(now()),
    };
    let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
    let value = serde_json::to_vec(&silence)?;
    write(cluster, runtime, &ControlKey::Silence(id.clone()), Some(&value))?;
    Ok(Silenced { id, holds: silence.holds(Moment::now().ms), silence })
}

/// Ends a silence now. It is kept as one that has ended, so that processes that start later know what began during it.
///
/// # Errors
/// [`OperatorError::NoSilence`] if none with the id holds; otherwise Kafka could not be read or written.
pub fn unsilence(cluster: &Cluster, runtime: &Handle, id: &str) -> Result<Silenced, OperatorError> {
    let controls = controls(cluster)?;
    let (silence, until) = (controls.silences().get(id), now());
    let mut silence = silence
        .filter(|silence| silence.holds(until.as_millisecond()))
        .ok_or_else(|| OperatorError::NoSilence(id.to_owned()))?
        .clone();
    silence.until = until;
    let value = serde_json::to_vec(&silence)?;
    write(cluster, runtime, &ControlKey::Silence(id.to_owned()), Some(&value))?;
    Ok(Silenced { id: id.to_owned(), silence, holds: false })
}

/// The silences that hold; with `all`, also those that have ended by themselves.
///
/// # Errors
/// Kafka could not be read.
pub fn silences(cluster: &Cluster, all: bool) -> Result<Silences, OperatorError> {
    let controls = controls(cluster)?;
    let now = Moment::now().ms;
    let by_id: BTreeMap<_, _> = controls.silences().iter().collect();
    let silenced = |(id, silence): (&String, &Silence)| Silenced {
        id: id.clone(),
        holds: silence.holds(now),
        silence: silence.clone(),
    };
    let silences = by_id.into_iter().map(silenced).filter(|silenced| all || silenced.holds).collect();
    Ok(Silences { silences })
}

impl Silenced {
    fn of_what(&self) -> String {
        match (&self.silence.device, &self.silence.rule) {
            (None, None) => "everything".to_owned(),
            (Some(device), None) => format!("device {}", printable(device.as_bytes(), 36)),
            (None, Some(rule)) => format!("rule {}", printable(rule.as_bytes(), 60)),
            (Some(device), Some(rule)) => {
                format!(
                    "rule {} of device {}",
                    printable(rule.as_bytes(), 60),
                    printable(device.as_bytes(), 36)
                )
            }
        }
    }

    /// Says that it was made.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let until = rfc3339(self.silence.until.as_millisecond());
        writeln!(out, "silenced {} until {until}: {}", self.of_what(), self.id)
    }

    /// Says that it was ended.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print_ended(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} is silenced no longer: {} has ended", self.of_what(), self.id)
    }
}

impl Silences {
    /// Writes a table, for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.silences.is_empty() {
            return writeln!(out, "nothing is silenced");
        }
        let heads = ["ID", "WHAT", "UNTIL", "HOLDS", "BY", "COMMENT"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.silences.iter().map(|silenced| {
            vec![
                printable(silenced.id.as_bytes(), 64),
                silenced.of_what(),
                rfc3339(silenced.silence.until.as_millisecond()),
                if silenced.holds { "yes" } else { "no" }.to_owned(),
                printable(silenced.silence.by.as_bytes(), 30),
                printable(silenced.silence.comment.as_bytes(), 60),
            ]
        }));
        columns(&rows).iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

impl Acknowledged {
    /// Says that it was made.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Entry { id, rule, device, state, .. } = &self.episode;
        let (rule, device) = (printable(rule.as_bytes(), 60), printable(device.as_bytes(), 36));
        writeln!(out, "acknowledged {} ({rule}, device {device})", printable(id.as_bytes(), 200))?;
        if *state == "resolved" { writeln!(out, "it is resolved already") } else { Ok(()) }
    }
}
