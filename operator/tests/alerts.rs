//! `penstock alerts` on a real Kafka, with the real program.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use penstock_proto::alert_json::to_json;
use penstock_proto::topics::{ALERT_CONTROLS, DEVICE_ALERTS, LOW_BATTERY};
use penstock_proto::v1::{AlertSeverity, AlertState, DeviceAlert};

use support::{NOW_MS, World, device};

fn alert(id: &str, rule: &str, number: u32, state: AlertState, time: i64) -> DeviceAlert {
    let severity = if rule == "hot" { AlertSeverity::Critical } else { AlertSeverity::Warning };
    DeviceAlert {
        id: id.into(),
        rule: rule.into(),
        device_id: device(number).to_string(),
        severity: severity.into(),
        state: state.into(),
        onset: NOW_MS,
        time: NOW_MS + time,
        value: 85.5,
        text: format!("{rule} on {number}"),
        ..DeviceAlert::default()
    }
}

/// a fires, b is resolved, c fires on its battery, and one record is no alert.
fn world() -> World {
    let mut world = World::new();
    let say = |world: &mut World, topic: &str, alert: &DeviceAlert| {
        world.send(topic, None, Some(alert.device_id.as_bytes()), to_json(alert).as_bytes(), &[]);
    };
    say(&mut world, DEVICE_ALERTS, &alert("a", "hot", 1, AlertState::Firing, 1_000));
    say(&mut world, DEVICE_ALERTS, &alert("b", "silent", 2, AlertState::Firing, 2_000));
    say(&mut world, DEVICE_ALERTS, &alert("b", "silent", 2, AlertState::Resolved, 3_000));
    say(&mut world, LOW_BATTERY, &alert("c", "battery", 1, AlertState::Firing, 4_000));
    world.send(DEVICE_ALERTS, None, Some(b"x"), b"\x1b[2J", &[]);
    world.delivered();
    world
}

fn ids(listed: &serde_json::Value) -> Vec<&str> {
    listed["alerts"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

#[test]
fn what_fires_is_listed_newest_first_and_can_be_narrowed_down() {
    let world = world();
    let (code, listed) = world.json(&["alerts", "list", "--json"]);
    assert_eq!((code, ids(&listed)), (0, vec!["c", "a"]));
    assert_eq!(listed["by_state"], serde_json::json!({"firing": 2}));
    assert_eq!((&listed["malformed"], &listed["alerts"][0]["severity"]), (&1.into(), &"warning".into()));
    for (arguments, expected) in [
        (&["--state", "all"][..], &["c", "b", "a"][..]),
        (&["--state", "resolved"], &["b"]),
        (&["--rule", "hot"], &["a"]),
        (&["--severity", "warning"], &["c"]),
        (&["--device", &device(2).to_string()], &[]),
        (&["--state", "all", "--limit", "1"], &["c"]),
    ] {
        let (code, listed) = world.json(&[&["alerts", "list", "--json"], arguments].concat());
        assert_eq!((code, ids(&listed)), (0, expected.to_vec()), "{arguments:?}");
    }
    let (code, text, _) = world.run(&["alerts", "list", "--state", "all"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("3 episodes: 2 firing, 1 resolved\n1 record in the alert topics are no alerts"),
        "{text}"
    );
    assert!(text.contains("a   firing    critical  hot"), "{text}");
    assert_eq!(world.run(&["alerts", "list", "--severity", "bad"]).0, 2);
    let empty = World::new();
    assert_eq!(empty.run(&["alerts", "list"]), (0, "nothing fires\n".to_owned(), String::new()));
}

#[test]
fn an_alert_is_shown_with_its_records_and_can_be_acknowledged() {
    let world = world();
    let (code, shown) = world.json(&["alerts", "show", "b", "--json"]);
    assert_eq!((code, &shown["episode"]["state"]), (0, &"resolved".into()));
    let records = shown["records"].as_array().unwrap();
    let states: Vec<_> = records.iter().map(|record| record["alert"]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["ALERT_STATE_FIRING", "ALERT_STATE_RESOLVED"]);
    let (code, out, error) = world.run(&["alerts", "show", "no-such"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("there is no alert \"no-such\""), "{error}");
    assert_eq!(world.run(&["alerts", "ack", "no-such"]).0, 1);
    assert_eq!(world.records(ALERT_CONTROLS).len(), 0, "nothing is said of an alert that is not there");

    let (code, text, error) = world.run(&["alerts", "ack", "a", "--by", "ann", "--comment", "on my way"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(text, format!("acknowledged a (hot, device {})\n", device(1)));
    let records = world.settled(ALERT_CONTROLS, 1);
    assert_eq!((records.len(), &records[0].key[..]), (1, &b"ack/a"[..]));
    let value: serde_json::Value = serde_json::from_slice(&records[0].payload).unwrap();
    assert_eq!((&value["by"], &value["comment"]), (&"ann".into(), &"on my way".into()));
    let (_, listed) = world.json(&["alerts", "list", "--json"]);
    assert_eq!(listed["alerts"][1]["acknowledged_by"], "ann");
    let (_, text, _) = world.run(&["alerts", "show", "a"]);
    assert!(text.contains("on my way") && text.contains("1 record\n"), "{text}");
    let (code, undone) = world.json(&["alerts", "ack", "a", "--undo", "--json"]);
    assert_eq!((code, &undone["id"]), (0, &"a".into()));
    world.settled(ALERT_CONTROLS, 1);
    let (_, listed) = world.json(&["alerts", "list", "--json"]);
    assert!(listed["alerts"][1]["acknowledged_by"].is_null());
}

#[test]
fn a_silence_is_made_listed_and_taken_back() {
    let world = world();
    assert_eq!(world.run(&["alerts", "silences"]), (0, "nothing is silenced\n".to_owned(), String::new()));
    let device = device(1).to_string();
    let (code, silenced) = world.json(&[
        "alerts",
        "silence",
        "--device",
        &device,
        "--rule",
        "hot",
        "--for",
        "2h",
        "--comment",
        "moving it",
        "--json",
    ]);
    assert_eq!((code, &silenced["holds"]), (0, &true.into()));
    let id = silenced["id"].as_str().unwrap();
    world.settled(ALERT_CONTROLS, 1);
    let (_, silences) = world.json(&["alerts", "silences", "--json"]);
    assert_eq!(silences["silences"][0]["silence"]["comment"], "moving it");
    let (_, listed) = world.json(&["alerts", "list", "--json"]);
    assert_eq!(
        (&listed["alerts"][0]["silenced_by"], &listed["alerts"][1]["silenced_by"]),
        (&().into(), &id.into())
    );
    let (code, text, _) = world.run(&["alerts", "unsilence", id]);
    assert_eq!(
        (code, text),
        (0, format!("rule hot of device {device} is silenced no longer: {id} has ended\n"))
    );
    world.settled(ALERT_CONTROLS, 1);
    let (code, _, error) = world.run(&["alerts", "unsilence", id]);
    assert_eq!(code, 1);
    assert!(error.contains("there is no silence"), "{error}");
    assert_eq!(world.run(&["alerts", "silences"]).1, "nothing is silenced\n");
    let (_, all) = world.json(&["alerts", "silences", "--all", "--json"]);
    assert_eq!((&all["silences"][0]["id"], &all["silences"][0]["holds"]), (&id.into(), &false.into()));

    for (arguments, expected) in [
        (&["--for", "2h"][..], "say what to silence"),
        (&["--all"], "--for <TIME>"),
        (&["--all", "--until", "2020-01-01T00:00:00Z"], "lies in the past"),
        (&["--all", "--for", "soon"], "write how long"),
        (&["--all", "--rule", "hot", "--for", "2h"], "cannot be used with"),
        (&["--device", "x", "--for", "2h"], "not a device id"),
    ] {
        let (code, _, error) = world.run(&[&["alerts", "silence"], arguments].concat());
        assert_eq!(code, 2, "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn notify_without_anybody_to_notify_says_what_to_set() {
    let world = World::new();
    let (code, out, error) = world.run(&["run", "notify"]);
    assert_eq!(code, 1);
    assert!(
        format!("{out}{error}").contains("notify.alertmanager_url and notify.webhook_url are both empty"),
        "{error}"
    );
}
