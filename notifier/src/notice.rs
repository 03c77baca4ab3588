//! An alert as it was read: what is sent, and what a dead letter needs.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use penstock_proto::Reason;
use penstock_proto::v1::{AlertState, DeviceAlert};

use crate::ledger::Source;

/// Who gets alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Receiver {
    /// An Alertmanager.
    Alertmanager,
    /// An address that takes plain JSON.
    Webhook,
}

impl Receiver {
    /// The name in groups, headers, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alertmanager => "alertmanager",
            Self::Webhook => "webhook",
        }
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record of a topic of alerts.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// What it says.
    pub alert: DeviceAlert,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value, as it came.
    pub payload: Vec<u8>,
    /// Where it was read.
    pub source: Source,
}

impl Notice {
    /// Whether it says that the alert does not fire any more.
    pub fn is_resolved(&self) -> bool {
        self.alert.state() == AlertState::Resolved
    }

    /// What it weighs against the budgets.
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Vec::len)
    }
}

/// An alert that fired before its partition was taken over, and still does.
#[derive(Clone, Debug)]
pub struct Former {
    /// The last record of it.
    pub notice: Arc<Notice>,
    /// When that was written, milliseconds since the Unix epoch.
    pub written_ms: i64,
    /// It was written before the group existed: nobody was told of it.
    pub is_old: bool,
}

/// Why an alert is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is new to the receiver: it is delivered, or becomes a dead letter.
    News,
    /// To remind the receiver; the next time comes.
    Refresh,
    /// The severity, by which the Alertmanager tells alerts apart, has changed: the alert with the former one ends.
    Replaced,
}

/// An alert on its way to a receiver.
#[derive(Clone, Debug)]
pub struct Item {
    /// The alert.
    pub notice: Arc<Notice>,
    /// Why it is sent.
    pub why: Why,
    /// The severity that the receiver knows the alert by.
    pub severity: i32,
    /// Since when it is to be delivered.
    pub since: Instant,
}

/// A record that goes to the topic of delivery failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub payload: Vec<u8>,
    /// Where it was read.
    pub source: Source,
    /// Why.
    pub reason: Reason,
    /// What exactly happened, for people.
    pub detail: String,
}

impl Letter {
    /// The letter of an alert.
    pub fn of(notice: &Notice, reason: Reason, detail: String) -> Self {
        Self {
            key: notice.key.clone(),
            payload: notice.payload.clone(),
            source: notice.source,
            reason,
            detail,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use penstock_proto::alert_json::to_json;
    use penstock_proto::v1::AlertSeverity;

    use super::*;
    use crate::ledger::{AlertTopic, Ledger};

    pub(crate) const DEVICE: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

    pub(crate) fn notice(alert: DeviceAlert, offset: i64) -> Arc<Notice> {
        let epoch = Ledger::default().assign((AlertTopic::Device, 0));
        let source = Source { part: (AlertTopic::Device, 0), epoch, offset };
        let payload = to_json(&alert).into_bytes();
        Arc::new(Notice { alert, key: Some(b"key".to_vec()), payload, source })
    }

    pub(crate) fn alert(id: &str, state: AlertState) -> DeviceAlert {
        DeviceAlert {
            id: id.into(),
            rule: "hot".into(),
            device_id: DEVICE.into(),
            severity: AlertSeverity::Warning.into(),
            state: state.into(),
            onset: 1_790_000_000_000,
            time: 1_790_000_060_000,
            value: 85.5,
            threshold: 80.0,
            text: "85.5 over 80".into(),
            ..DeviceAlert::default()
        }
    }

    pub(crate) fn firing(id: &str, offset: i64) -> Arc<Notice> {
        notice(alert(id, AlertState::Firing), offset)
    }
}
