//! `penstock alerts list`: episodes, newest first.

use std::collections::BTreeMap;
use std::io::{self, Write};

use penstock_notifier::controls::Controls;
use penstock_notifier::payload::{check, severity};
use penstock_proto::alert_json::from_json;
use penstock_proto::v1::{AlertState, DeviceAlert};
use serde::Serialize;

use super::fold::Episodes;
use super::{controls, each_batch};
use crate::text::{columns, counted, printable, thousands};
use crate::{Cluster, Moment, OperatorError, Progress, rfc3339};

/// Characters of a text in a table.
const TEXT_CHARS_SHOWN: usize = 60;

/// Which episodes are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateFilter {
    /// Those that fire.
    #[default]
    Firing,
    /// Those that are resolved.
    Resolved,
    /// All.
    All,
}

/// Conditions that episodes have to meet.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this device.
    pub device: Option<String>,
    /// Of this rule.
    pub rule: Option<String>,
    /// Of this severity: `info`, `warning` or `critical`.
    pub severity: Option<String>,
    /// As they are.
    pub state: StateFilter,
}

impl Filter {
    fn wants(&self, alert: &DeviceAlert) -> bool {
        self.device.as_ref().is_none_or(|device| *device == alert.device_id)
            && self.rule.as_ref().is_none_or(|rule| *rule == alert.rule)
            && self.severity.as_ref().is_none_or(|wanted| *wanted == severity(alert.severity))
    }
}

/// An episode in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// `firing` or `resolved`.
    pub state: &'static str,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// The rule.
    pub rule: String,
    /// The device.
    pub device: String,
    /// When it began, by the device's clock, RFC 3339.
    pub onset: String,
    /// When it was last heard of, by the device's clock, RFC 3339.
    pub time: String,
    /// How often it was repeated.
    pub repeat: u32,
    /// Who has acknowledged it.
    pub acknowledged_by: Option<String>,
    /// The silence that holds now and is about it.
    pub silenced_by: Option<String>,
    /// Why, where it is not the readings alone.
    pub reason: String,
    /// What it says.
    pub text: String,
}

impl Entry {
    pub(super) fn of(alert: &DeviceAlert, controls: &Controls, now: Moment) -> Self {
        Self {
            id: alert.id.clone(),
            state: state(alert.state()),
            severity: severity(alert.severity),
            rule: alert.rule.clone(),
            device: alert.device_id.clone(),
            onset: rfc3339(alert.onset),
            time: rfc3339(alert.time),
            repeat: alert.repeat,
            acknowledged_by: controls.ack(&alert.id).map(|ack| ack.by.clone()),
            silenced_by: controls.silencing(alert, now.ms).map(|(id, _)| id.to_owned()),
            reason: alert.reason.clone(),
            text: alert.text.clone(),
        }
    }
}

pub(super) const fn state(state: AlertState) -> &'static str {
    match state {
        AlertState::Firing => "firing",
        AlertState::Resolved => "resolved",
        AlertState::Unspecified => "unspecified",
    }
}

/// Episodes and their counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Alerts {
    /// The newest, newest first.
    pub alerts: Vec<Entry>,
    /// How many meet the conditions, by state.
    pub by_state: BTreeMap<&'static str, u64>,
    /// Firing episodes there was no room for; the oldest are left out.
    pub left_out: u64,
    /// Records that are no alert.
    pub malformed: u64,
    #[serde(skip)]
    state: StateFilter,
}

/// Reads the newest `limit` episodes. Memory grows with `limit` and with what fires.
///
/// # Errors
/// [`OperatorError`] if Kafka cannot be read or a topic is not there.
pub fn list(cluster: &Cluster, filter: &Filter, limit: usize) -> Result<Alerts, OperatorError> {
    let controls = controls(cluster)?;
    let mut progress = Progress::start();
    let (mut episodes, mut malformed, mut looked_at) = (Episodes::new(limit), 0u64, 0u64);
    each_batch(cluster, |_, batch| {
        for record in batch {
            match from_json(record.payload).ok().filter(|alert| check(alert).is_ok()) {
                Some(alert) if filter.wants(&alert) => episodes.add(alert),
                Some(_) => {}
                None => malformed += 1,
            }
        }
        looked_at += batch.len() as u64;
        progress.tick(|_| format!("{} read", counted(looked_at, "record")));
    })?;
    let (firing, left_out) = episodes.firing();
    let resolved = episodes.resolved();
    let (with_firing, with_resolved) =
        (filter.state != StateFilter::Resolved, filter.state != StateFilter::Firing);
    let now = Moment::now();
    let newest = episodes.newest(with_firing, with_resolved, limit);
    let mut by_state = BTreeMap::new();
    for (wanted, name, count) in [(with_firing, "firing", firing), (with_resolved, "resolved", resolved)] {
        if wanted {
            by_state.insert(name, count);
        }
    }
    Ok(Alerts {
        alerts: newest.iter().map(|alert| Entry::of(alert, &controls, now)).collect(),
        by_state,
        left_out,
        malformed,
        state: filter.state,
    })
}

impl Alerts {
    /// Writes a table and the counts, for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let count: u64 = self.by_state.values().sum();
        if self.alerts.is_empty() {
            let what = if self.state == StateFilter::Firing { "nothing fires" } else { "no such alerts" };
            writeln!(out, "{what}")?;
        } else {
            let heads = ["ID", "STATE", "SEVERITY", "RULE", "DEVICE", "SINCE", "SAID", "TEXT"];
            let mut rows = vec![heads.map(str::to_owned).to_vec()];
            rows.extend(self.alerts.iter().map(|entry| {
                let said = match (&entry.acknowledged_by, &entry.silenced_by) {
                    (Some(by), _) => format!("acknowledged by {}", cut(by, 30)),
                    (None, Some(id)) => format!("silenced by {}", cut(id, 30)),
                    (None, None) => "-".to_owned(),
                };
                vec![
                    cut(&entry.id, 80),
                    entry.state.to_owned(),
                    entry.severity.to_owned(),
                    cut(&entry.rule, 60),
                    cut(&entry.device, 36),
                    entry.onset.clone(),
                    said,
                    cut(&entry.text, TEXT_CHARS_SHOWN),
                ]
            }));
            for line in columns(&rows) {
                writeln!(out, "{line}")?;
            }
            let states: Vec<_> =
                self.by_state.iter().map(|(state, count)| format!("{} {state}", thousands(*count))).collect();
            writeln!(out, "\n{}: {}", counted(count, "episode"), states.join(", "))?;
        }
        if (self.alerts.len() as u64) < count {
            writeln!(out, "the newest {} are shown; --limit shows more", self.alerts.len())?;
        }
        if self.left_out > 0 {
            writeln!(out, "more fire than are looked at: the oldest are left out")?;
        }
        if self.malformed > 0 {
            writeln!(out, "{} in the alert topics are no alerts", counted(self.malformed, "record"))?;
        }
        Ok(())
    }
}

fn cut(text: &str, chars_max: usize) -> String {
    printable(text.as_bytes(), chars_max)
}
