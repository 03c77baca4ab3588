//! What is posted. Pure.
//!
//! The Alertmanager gets `POST /api/v2/alerts`: an alert is told from others by its labels, fires while `endsAt` lies
//! ahead and is resolved when it does not. The webhook gets one object a group, with alerts as they are in the topics.

use std::collections::BTreeMap;

use jiff::Timestamp;
use penstock_proto::alert_json::to_json;
use penstock_proto::v1::{AlertSeverity, AlertState, DeviceAlert};
use penstock_service::config::GroupBy;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::controls::Controls;
use crate::notice::{Item, Why};

/// The version of the webhook's schema; a field that is added does not change it.
const VERSION: u32 = 1;

/// What both receivers are told besides the alerts.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'c> {
    /// Now, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Acknowledgements are shown.
    pub controls: &'c Controls,
    /// A link for people, with `{id}`, `{rule}` and `{device_id}`; empty for none.
    pub link: &'c str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Posted<'i> {
    labels: BTreeMap<&'static str, &'i str>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "String::is_empty")]
    generator_url: String,
}

/// The body for an Alertmanager. Of an alert that is there more than once the last one counts. Firing alerts are to
/// count as resolved if nothing more is heard of them for `expire_ms`.
pub fn alertmanager(items: &[Item], expire_ms: i64, circumstances: &Circumstances<'_>) -> Vec<u8> {
    let mut last: BTreeMap<(&str, i32), usize> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        last.insert((&item.notice.alert.id, item.severity), index);
    }
    let mut kept: Vec<usize> = last.into_values().collect();
    kept.sort_unstable();
    let posted: Vec<_> = kept
        .iter()
        .filter_map(|index| items.get(*index))
        .map(|item| posted(item, expire_ms, circumstances))
        .collect();
    serde_json::to_vec(&posted).unwrap_or_default()
}

fn posted<'i>(item: &'i Item, expire_ms: i64, circumstances: &Circumstances<'_>) -> Posted<'i> {
    let alert = &item.notice.alert;
    let Circumstances { now_ms, controls, .. } = *circumstances;
    // Devices' clocks may be ahead; an end in the future would be an alert that fires.
    let (starts, ends) = match item.why {
        Why::Replaced => (alert.onset.min(now_ms), now_ms),
        _ if item.notice.is_resolved() => {
            (alert.onset.min(now_ms), alert.time.clamp(alert.onset.min(now_ms), now_ms))
        }
        _ => (alert.onset.min(now_ms), now_ms.saturating_add(expire_ms)),
    };
    let labels = [
        ("alertname", alert.rule.as_str()),
        ("device_id", &alert.device_id),
        ("severity", severity(item.severity)),
        ("alert_id", &alert.id),
    ];
    let mut annotations = BTreeMap::from([
        ("summary", alert.text.clone()),
        ("value", alert.value.to_string()),
        ("threshold", alert.threshold.to_string()),
        ("reading_count", alert.reading_count.to_string()),
        ("window_start", rfc3339(alert.window_start)),
        ("window_end", rfc3339(alert.window_end)),
    ]);
    if !alert.reason.is_empty() {
        annotations.insert("reason", alert.reason.clone());
    }
    if let Some(ack) = controls.ack(&alert.id) {
        annotations.insert("acknowledged_by", ack.by.clone());
        annotations.insert("acknowledged_comment", ack.comment.clone());
    }
    Posted {
        labels: labels.into(),
        annotations,
        starts_at: rfc3339(starts),
        ends_at: rfc3339(ends),
        generator_url: link(circumstances.link, alert),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group<'g> {
    version: u32,
    group_by: GroupBy,
    group_key: &'g str,
    status: &'static str,
    sent_at: String,
    alerts: Vec<Member>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    status: &'static str,
    alert: Option<Box<RawValue>>,
    acknowledged: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    link: String,
}

/// The body for a webhook.
pub fn webhook(items: &[Item], by: GroupBy, key: &str, circumstances: &Circumstances<'_>) -> Vec<u8> {
    let member = |item: &Item| {
        let alert = &item.notice.alert;
        Member {
            status: status(item.notice.is_resolved()),
            alert: RawValue::from_string(to_json(alert)).ok(),
            acknowledged: circumstances.controls.ack(&alert.id).is_some(),
            link: link(circumstances.link, alert),
        }
    };
    // A later record of an alert says how it is.
    let mut states: BTreeMap<&str, bool> = BTreeMap::new();
    states.extend(items.iter().map(|item| (item.notice.alert.id.as_str(), item.notice.is_resolved())));
    let group = Group {
        version: VERSION,
        group_by: by,
        group_key: key,
        status: status(states.values().all(|resolved| *resolved)),
        sent_at: rfc3339(circumstances.now_ms),
        alerts: items.iter().map(member).collect(),
    };
    serde_json::to_vec(&group).unwrap_or_default()
}

const fn status(resolved: bool) -> &'static str {
    if resolved { "resolved" } else { "firing" }
}

/// Which alerts are in one group.
pub fn group_key(by: GroupBy, alert: &DeviceAlert) -> String {
    match by {
        GroupBy::Device => format!("device/{}", alert.device_id),
        GroupBy::Rule => format!("rule/{}", alert.rule),
        GroupBy::None => format!("alert/{}", alert.id),
    }
}

/// A severity in one lower-case word.
pub fn severity(severity: i32) -> &'static str {
    match AlertSeverity::try_from(severity) {
        Ok(AlertSeverity::Info) => "info",
        Ok(AlertSeverity::Warning) => "warning",
        Ok(AlertSeverity::Critical) => "critical",
        _ => "unspecified",
    }
}

/// Whether a record says anything about an alert: it names it and says how it is.
pub fn check(alert: &DeviceAlert) -> Result<(), &'static str> {
    if alert.id.is_empty() {
        return Err("it has no id");
    }
    if alert.rule.is_empty() || alert.device_id.is_empty() {
        return Err("it names no rule or no device");
    }
    match alert.state() {
        AlertState::Firing | AlertState::Resolved => Ok(()),
        AlertState::Unspecified => Err("its state is neither firing nor resolved"),
    }
}

fn link(template: &str, alert: &DeviceAlert) -> String {
    if template.is_empty() {
        return String::new();
    }
    let escaped = |text: &str| {
        let unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let escape =
            |byte: u8| if unreserved(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(escape).collect::<String>()
    };
    template
        .replace("{id}", &escaped(&alert.id))
        .replace("{rule}", &escaped(&alert.rule))
        .replace("{device_id}", &escaped(&alert.device_id))
}

/// Milliseconds since the Unix epoch as RFC 3339; the nearest moment that has such a form.
fn rfc3339(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms);
    let bound = if ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
    format!("{:.3}", time.unwrap_or(bound))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::notice::tests::{DEVICE, alert, firing, notice};

    const NOW_MS: i64 = 1_790_000_100_000;

    fn item(notice: std::sync::Arc<crate::notice::Notice>, why: Why) -> Item {
        Item { severity: notice.alert.severity, notice, why, since: Instant::now() }
    }

    fn posted(items: &[Item], link: &str) -> Value {
        let mut controls = Controls::default();
        controls.fold(Some(b"ack/b"), Some(br#"{"by": "ann", "comment": "on it"}"#)).unwrap();
        let circumstances = Circumstances { now_ms: NOW_MS, controls: &controls, link };
        serde_json::from_slice(&alertmanager(items, 3_600_000, &circumstances)).unwrap()
    }

    #[test]
    fn an_alertmanager_is_told_what_fires_and_until_when_that_is_believed() {
        let body = posted(&[item(firing("a", 0), Why::News)], "https://graphs/?d={device_id}&r={rule}");
        assert_eq!(
            body,
            json!([{
                "labels": {"alertname": "hot", "device_id": DEVICE, "severity": "warning", "alert_id": "a"},
                "annotations": {
                    "summary": "85.5 over 80", "value": "85.5", "threshold": "80", "reading_count": "0",
                    "window_start": "1970-01-01T00:00:00.000Z", "window_end": "1970-01-01T00:00:00.000Z",
                },
                "startsAt": "2026-09-21T14:13:20.000Z",
                "endsAt": "2026-09-21T15:15:00.000Z",
                "generatorURL": format!("https://graphs/?d={DEVICE}&r=hot"),
            }])
        );
    }

    #[test]
    fn a_resolved_alert_ends_in_the_past_whatever_the_clock_of_its_device() {
        let ends = |onset, time| {
            let resolved = DeviceAlert { onset, time, ..alert("a", AlertState::Resolved) };
            let body = posted(&[item(notice(resolved, 0), Why::News)], "");
            (body[0]["startsAt"].as_str().unwrap().to_owned(), body[0]["endsAt"].as_str().unwrap().to_owned())
        };
        let now = "2026-09-21T14:15:00.000Z".to_owned();
        assert_eq!(ends(NOW_MS - 1_000, NOW_MS - 500).1, "2026-09-21T14:14:59.500Z");
        assert_eq!(ends(NOW_MS + 1_000, NOW_MS + 9_000), (now.clone(), now.clone()));
        assert_eq!(
            ends(NOW_MS - 1_000, NOW_MS - 5_000).1,
            "2026-09-21T14:14:59.000Z",
            "not before it begins"
        );
        assert_eq!(ends(i64::MIN, i64::MAX).1, now);
    }

    #[test]
    fn the_last_of_an_alert_counts_and_a_replaced_severity_ends() {
        let resolved = notice(alert("b", AlertState::Resolved), 3);
        let critical = DeviceAlert { severity: 3, ..alert("a", AlertState::Firing) };
        let body = posted(
            &[
                item(firing("b", 0), Why::News),
                item(firing("a", 1), Why::Replaced),
                item(notice(critical, 2), Why::News),
                item(resolved, Why::News),
            ],
            "",
        );
        let brief: Vec<_> = body
            .as_array()
            .unwrap()
            .iter()
            .map(|alert| {
                (alert["labels"]["alert_id"].as_str().unwrap(), alert["labels"]["severity"].as_str().unwrap())
            })
            .collect();
        assert_eq!(brief, [("a", "warning"), ("a", "critical"), ("b", "warning")]);
        assert_eq!(body[0]["endsAt"], "2026-09-21T14:15:00.000Z");
        assert_eq!(body[2]["annotations"]["acknowledged_by"], "ann");
    }

    #[test]
    fn a_webhook_gets_the_alerts_of_a_group_as_they_are_in_the_topics() {
        let (first, second) = (firing("a", 0), notice(alert("a", AlertState::Resolved), 1));
        let controls = Controls::default();
        let circumstances = Circumstances { now_ms: NOW_MS, controls: &controls, link: "" };
        let key = group_key(GroupBy::Device, &first.alert);
        let items = [item(first.clone(), Why::News), item(second, Why::News)];
        let body: Value =
            serde_json::from_slice(&webhook(&items, GroupBy::Device, &key, &circumstances)).unwrap();
        assert_eq!((&body["version"], &body["groupBy"]), (&json!(1), &json!("device")));
        assert_eq!(
            (&body["groupKey"], &body["status"]),
            (&json!(format!("device/{DEVICE}")), &json!("resolved"))
        );
        assert_eq!(body["alerts"][0]["status"], "firing");
        let theirs: Value = serde_json::from_slice(&first.payload).unwrap();
        assert_eq!(body["alerts"][0]["alert"], theirs);
        let body: Value =
            serde_json::from_slice(&webhook(&items[..1], GroupBy::Rule, "r", &circumstances)).unwrap();
        assert_eq!(body["status"], "firing");
    }

    #[test]
    fn links_are_escaped() {
        let odd = DeviceAlert { rule: "a b/ü".into(), ..alert("x", AlertState::Firing) };
        assert_eq!(link("http://g/{rule}?i={id}", &odd), "http://g/a%20b%2F%C3%BC?i=x");
    }

    #[test]
    fn what_names_nothing_is_no_alert() {
        assert_eq!(check(&alert("a", AlertState::Firing)), Ok(()));
        for broken in [
            alert("", AlertState::Firing),
            alert("a", AlertState::Unspecified),
            DeviceAlert { rule: String::new(), ..alert("a", AlertState::Firing) },
            DeviceAlert { state: 99, ..alert("a", AlertState::Firing) },
        ] {
            assert!(check(&broken).is_err(), "{broken:?}");
        }
    }
}
