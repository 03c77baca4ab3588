//! From what an episode says to the alert's record. Pure.

use penstock_proto::DeviceId;
use penstock_proto::v1::{AlertSeverity, AlertState, DeviceAlert};
use sha2::{Digest, Sha256};
use uuid::Builder;

use super::condition::Verdict;
use crate::rules::{Rule, Track, severity_name};
use crate::text::Values;

/// An alert that is to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Raised {
    /// Whose it is.
    pub device: DeviceId,
    /// It belongs to the topic of low batteries.
    pub low_battery: bool,
    /// The record.
    pub alert: DeviceAlert,
}

/// What has to be known of a rule to end its episodes when the rule itself is gone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Identity<'a> {
    pub(crate) rule: &'a str,
    pub(crate) severity: AlertSeverity,
    pub(crate) low_battery: bool,
    pub(crate) threshold: f64,
}

impl<'a> Identity<'a> {
    pub(crate) fn of(rule: &'a Rule, track: &Track) -> Self {
        Self {
            rule: rule.name(),
            severity: track.severity,
            low_battery: track.low_battery,
            threshold: track.threshold,
        }
    }

    /// The id of an episode: the same for everybody who derives it.
    fn episode(&self, device: DeviceId, onset_ms: i64) -> String {
        let level = if self.low_battery { severity_name(self.severity) } else { "" };
        let mut hash = Sha256::new();
        hash.update(b"penstock alert\0");
        hash.update(self.rule.as_bytes());
        hash.update(b"\0");
        hash.update(level.as_bytes());
        hash.update(b"\0");
        hash.update(device.as_bytes());
        hash.update(onset_ms.to_be_bytes());
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }
}

/// What every record of one reading has in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cause {
    pub(crate) device: DeviceId,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) time_ms: i64,
}

/// One record of an episode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) state: AlertState,
    pub(crate) onset_ms: i64,
    pub(crate) repeat: u32,
    pub(crate) reason: &'a str,
}

/// The record of an episode of a rule that is in force.
pub(crate) fn raised(
    rule: &Rule,
    track: &Track,
    cause: Cause,
    verdict: Verdict,
    record: Record<'_>,
) -> Raised {
    let identity = Identity::of(rule, track);
    let value = if track.is_single && !matches!(track.test, crate::rules::Test::Slope { .. }) {
        decimal(verdict.value)
    } else {
        verdict.value
    };
    let device_id = cause.device.to_string();
    let metric = rule.metric().map(ToString::to_string).unwrap_or_default();
    let text = rule.text().render(&Values {
        device_id: &device_id,
        rule: rule.name(),
        severity: severity_name(track.severity),
        state: if record.state == AlertState::Firing { "firing" } else { "resolved" },
        metric: &metric,
        value,
        threshold: identity.threshold,
        count: verdict.count,
        onset_ms: record.onset_ms,
        time_ms: cause.time_ms,
        window_ms: verdict.window_ms,
    });
    build(identity, cause, Verdict { value, ..verdict }, record, device_id, text)
}

/// The record that ends an episode of a rule that is no longer in force.
pub(crate) fn withdrawn(identity: Identity<'_>, cause: Cause, onset_ms: i64, reason: &str) -> Raised {
    let record = Record { state: AlertState::Resolved, onset_ms, repeat: 0, reason };
    let window_ms = (cause.time_ms, cause.time_ms);
    let verdict = Verdict { active: false, value: 0.0, count: 0, window_ms };
    let what = if reason == CHANGED { "changed" } else { "removed" };
    let device_id = cause.device.to_string();
    let text = format!("{} on {device_id}: resolved because the rule was {what}", identity.rule);
    build(identity, cause, verdict, record, device_id, text)
}

/// Why an episode ended with its rule.
pub(crate) const REMOVED: &str = "rule-removed";
pub(crate) const CHANGED: &str = "rule-changed";
/// Why an episode does not end.
pub(crate) const FLAPPING: &str = "flapping";

fn build(
    identity: Identity<'_>,
    cause: Cause,
    verdict: Verdict,
    record: Record<'_>,
    device_id: String,
    text: String,
) -> Raised {
    let alert = DeviceAlert {
        id: identity.episode(cause.device, record.onset_ms),
        rule: identity.rule.to_owned(),
        device_id,
        severity: identity.severity.into(),
        state: record.state.into(),
        onset: record.onset_ms,
        time: cause.time_ms,
        window_start: verdict.window_ms.0,
        window_end: verdict.window_ms.1,
        reading_count: verdict.count,
        value: verdict.value,
        threshold: identity.threshold,
        text,
        source_partition: cause.partition,
        source_offset: cause.offset,
        reason: record.reason.to_owned(),
        repeat: record.repeat,
    };
    Raised { device: cause.device, low_battery: identity.low_battery, alert }
}

/// The decimal number that people mean by a number in single precision: 80.1, not 80.0999984741211.
#[allow(clippy::cast_possible_truncation, reason = "it was single before")]
fn decimal(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
