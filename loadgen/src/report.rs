//! What a run came to: numbers for people and for programs, and a verdict.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::ailment::AlarmCheck;
use crate::ledger::{Ledger, Outcome};
use crate::mqtt::Qos;
use crate::stats::{Latency, Stats};
use crate::verify::Verification;

/// The word at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything acknowledged is stored, once.
    Ok,
    /// A guarantee is falsified.
    Failed,
    /// Nothing is falsified, but readings stayed without an acknowledgement, or none was published at all.
    Incomplete,
    /// Everything is acknowledged; nobody looked whether it is stored.
    NotVerified,
}

impl Verdict {
    /// Whether the run counts as a success.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Ok | Self::NotVerified)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Incomplete => "incomplete",
            Self::NotVerified => "not-verified",
        })
    }
}

/// What a run came to. Every reading published is counted under exactly one of acked, refused, dead letters and
/// unacknowledged.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Devices of the run.
    pub devices: usize,
    /// Distinct readings handed to the MQTT client.
    pub published: u64,
    /// Valid readings acknowledged.
    pub acked: u64,
    /// Readings refused.
    pub refused: u64,
    /// Readings acknowledged as dead letters; with MQTT 3.1.1, acknowledged ones that were made invalid on purpose.
    pub dead_letters: u64,
    /// Readings without an acknowledgement; with QoS 0 all.
    pub unacknowledged: u64,
    /// Hand-overs after the first one of a reading.
    pub resent: u64,
    /// Connections lost after they stood.
    pub reconnects: u64,
    /// Why the latest connection was lost or not made.
    pub last_error: Option<String>,
    /// From the first hand-over to the last acknowledgement (with QoS 0: hand-over), in seconds.
    pub elapsed_s: f64,
    /// Readings acknowledged (with QoS 0: published) per second of that time.
    pub rate_per_s: f64,
    /// From the first hand-over of a publish to PUBACK or PUBREC, in milliseconds.
    pub puback_ms: Option<Latency>,
    /// From the first hand-over of a reading to its being seen in ClickHouse, in milliseconds; an upper bound.
    pub queryable_ms: Option<Latency>,
    /// What the verifier found.
    #[serde(flatten)]
    pub verification: Option<Verification>,
    /// Alerts of devices that something is wrong with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarms: Option<AlarmCheck>,
    /// The word at the end.
    pub verdict: Verdict,
}

impl Report {
    /// The report of a run that nobody has verified yet.
    pub fn new(ledger: &Ledger, stats: &Stats, qos: Qos) -> Self {
        let mut report = Self::of_ledger(ledger, qos);
        report.reconnects = stats.reconnects.get();
        report.last_error = stats.last_error();
        report.puback_ms = stats.puback.latency();
        report.queryable_ms = stats.queryable.latency();
        report
    }

    /// The report of a ledger alone, as it is read from a file.
    pub fn of_ledger(ledger: &Ledger, qos: Qos) -> Self {
        let totals = ledger.totals();
        let entries = || ledger.entries().map(|(_, _, entry)| entry).filter(|entry| entry.sends > 0);
        let first_us = entries().map(|entry| entry.sent_us).min().unwrap_or(0);
        let last_us = entries().map(|entry| entry.acked_us.max(entry.sent_us)).max().unwrap_or(0);
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
        let elapsed_s = (last_us - first_us) as f64 / 1e6;
        let done = match qos {
            Qos::AtMostOnce => totals.published,
            _ => entries().filter(|entry| entry.outcome != Outcome::Unacknowledged).count() as u64,
        };
        #[allow(clippy::cast_precision_loss, reason = "readings of a run are far below 2^52")]
        let rate_per_s = if elapsed_s > 0.0 { done as f64 / elapsed_s } else { 0.0 };
        // A run that published nothing has shown nothing.
        let acknowledged = qos == Qos::AtMostOnce || totals.unacknowledged == 0;
        let complete = totals.published > 0 && acknowledged;
        Self {
            devices: ledger.devices.len(),
            published: totals.published,
            acked: totals.acked,
            refused: totals.refused,
            dead_letters: totals.dead_letters,
            unacknowledged: totals.unacknowledged,
            resent: totals.resent,
            reconnects: 0,
            last_error: None,
            alarms: None,
            elapsed_s: (elapsed_s * 1e3).round() / 1e3,
            rate_per_s: (rate_per_s * 10.0).round() / 10.0,
            puback_ms: None,
            queryable_ms: None,
            verification: None,
            verdict: if complete { Verdict::NotVerified } else { Verdict::Incomplete },
        }
    }

    /// Adds what the verifier found, and what follows from it.
    pub fn verified(&mut self, verification: Verification) {
        self.verdict = match (verification.is_ok(), self.verdict) {
            (false, _) => Verdict::Failed,
            (true, Verdict::NotVerified) => Verdict::Ok,
            (true, verdict) => verdict,
        };
        self.verification = Some(verification);
    }

    /// Takes note of what alerts say about ailing devices.
    pub fn alarmed(&mut self, check: AlarmCheck) {
        if !check.is_ok() {
            self.verdict = Verdict::Failed;
        }
        self.alarms = Some(check);
    }

    /// The numbers as a table for people.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut row = |name: &str, value: String| {
            table.add_row(vec![Cell::new(name), Cell::new(value).set_alignment(CellAlignment::Right)]);
        };
        row("devices", self.devices.to_string());
        row("published", self.published.to_string());
        row("acked", self.acked.to_string());
        row("dead letters", self.dead_letters.to_string());
        row("refused", self.refused.to_string());
        row("unacknowledged", self.unacknowledged.to_string());
        row("resent", self.resent.to_string());
        row("reconnects", self.reconnects.to_string());
        if let Some(error) = &self.last_error {
            row("last connection error", error.clone());
        }
        if let Some(found) = &self.verification {
            for (name, value) in found.counts() {
                row(name, value.to_string());
            }
        }
        row("readings/s", format!("{:.1}", self.rate_per_s));
        for (name, latency) in [("PUBACK ms", self.puback_ms), ("queryable ms", self.queryable_ms)] {
            if let Some(Latency { p50, p95, p99, max, .. }) = latency {
                let value = format!("p50 {p50:.1}  p95 {p95:.1}  p99 {p99:.1}  max {max:.1}");
                row(name, value);
            }
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use penstock_proto::DeviceId;

    use super::*;
    use crate::ledger::{DeviceLedger, Entry};

    fn report(entries: &[(u64, u64, Outcome)], qos: Qos) -> Report {
        let mut device = DeviceLedger::new(DeviceId::from_bytes([1; 16]), 1);
        let entry = |(sent_us, acked_us, outcome): &(u64, u64, Outcome)| Entry {
            sent_us: *sent_us,
            acked_us: *acked_us,
            outcome: *outcome,
            sends: 1,
            ..Entry::HOLE
        };
        device.entries = entries.iter().map(entry).collect();
        Report::of_ledger(&Ledger { started_at_ms: 0, devices: vec![device] }, qos)
    }

    #[test]
    fn the_rate_is_over_the_time_from_the_first_hand_over_to_the_last_acknowledgement() {
        let acked = Outcome::Acknowledged;
        let report = report(&[(500_000, 600_000, acked), (900_000, 2_500_000, acked)], Qos::AtLeastOnce);
        assert_eq!((report.elapsed_s, report.rate_per_s, report.verdict), (2.0, 1.0, Verdict::NotVerified));
    }

    #[test]
    fn a_run_is_a_success_only_if_something_was_published_and_all_of_it_acknowledged() {
        let one = [(1, 0, Outcome::Unacknowledged)];
        assert_eq!(report(&[], Qos::AtLeastOnce).verdict, Verdict::Incomplete);
        assert_eq!(report(&one, Qos::AtLeastOnce).verdict, Verdict::Incomplete);
        assert_eq!(report(&one, Qos::AtMostOnce).verdict, Verdict::NotVerified);
        assert!(!Verdict::Incomplete.is_success() && !Verdict::Failed.is_success());
    }

    #[test]
    fn a_difference_fails_a_run_and_none_makes_it_ok_only_if_it_was_complete() {
        let verdict = |outcome, missing| {
            let mut report = report(&[(1, 2, outcome)], Qos::AtLeastOnce);
            let mut found = Verification::default();
            if missing {
                let device = DeviceId::from_bytes([1; 16]);
                let reading = crate::verify::ReadingName { device, sequence: 1, timestamp_ms: 0 };
                found.differences.push(crate::verify::Difference::MissingInKafka(reading));
            }
            report.verified(found);
            report.verdict
        };
        assert_eq!(verdict(Outcome::Acknowledged, false), Verdict::Ok);
        assert_eq!(verdict(Outcome::Acknowledged, true), Verdict::Failed);
        assert_eq!(verdict(Outcome::Unacknowledged, false), Verdict::Incomplete);
        assert_eq!(verdict(Outcome::Unacknowledged, true), Verdict::Failed);
    }

    #[test]
    fn json_has_the_promised_fields_and_words() {
        let mut report = report(&[(1, 2, Outcome::Acknowledged)], Qos::AtLeastOnce);
        report.verified(Verification { stored_rows: Some(1), ..Verification::default() });
        let json = serde_json::to_value(&report).unwrap();
        for field in [
            "published",
            "acked",
            "refused",
            "dead_letters",
            "missing",
            "duplicates",
            "resent",
            "out_of_order",
        ] {
            assert!(json[field].is_u64(), "{field}: {json}");
        }
        assert_eq!((&json["stored_rows"], &json["verdict"]), (&1.into(), &"ok".into()));
        assert!(
            json["rate_per_s"].is_f64()
                && json.get("puback_ms").is_some()
                && json.get("queryable_ms").is_some()
        );
    }
}
