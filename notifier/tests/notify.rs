//! Alerts on their way from a real Kafka to receivers that work, fail, hang and refuse.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use penstock_notifier::Receiver;
use penstock_proto::topics::{DELIVERY_FAILURES, header};
use penstock_proto::v1::AlertState;
use penstock_service::config::GroupBy;
use serde_json::Value;

use support::{Answer, Hook, Role, World, alert, firing, ids, resolved, until};

const HOUR: Duration = Duration::from_secs(3_600);
const FOREVER: &str = "2200-01-01T00:00:00Z";

fn header_of<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

#[test]
fn alerts_of_both_topics_reach_both_receivers_each_in_its_form_and_are_committed() {
    let world = World::new();
    let manager = Hook::start(&world, &[], Answer::Status(200));
    let webhook = Hook::start(&world, &[], Answer::Status(204));
    let mut config = world.config();
    config.notify.alertmanager_url = format!("{}/", manager.url);
    config.notify.webhook_url = format!("{}/alerts", webhook.url);
    config.notify.webhook_authorization = "Bearer let-me-in".into();
    let role = Role::start(&world, &config);
    world.say(&firing("a"));
    world.say_battery(&firing("b"));
    world.say_in_vain(&firing("aborted"));
    until("both have both", || manager.taken().len() == 2 && webhook.taken().len() == 2);
    world.say(&resolved("a"));
    until("both hear of the end", || {
        let has = |hook: &Hook| hook.taken().contains(&"a-".to_owned());
        has(&manager) && has(&webhook)
    });
    world.until_committed(&config, Receiver::Alertmanager);
    world.until_committed(&config, Receiver::Webhook);
    let came = &manager.came()[0];
    assert_eq!((came.path.as_str(), &came.authorization), ("/api/v2/alerts", &None));
    assert_eq!(came.body[0]["labels"]["alertname"], "hot");
    assert_eq!(came.body[0]["labels"]["severity"], "warning");
    let came = &webhook.came()[0];
    assert_eq!((came.path.as_str(), came.authorization.as_deref()), ("/alerts", Some("Bearer let-me-in")));
    assert_eq!((&came.body["version"], &came.body["groupBy"]), (&1.into(), &"device".into()));
    assert_eq!(webhook.taken().iter().filter(|id| id.starts_with("aborted")).count(), 0);
    assert_eq!(role.metric("penstock_notify_alerts_total{receiver=\"webhook\",outcome=\"delivered\"}"), 3.0);
    role.stop(&world);
    assert_eq!(world.records(DELIVERY_FAILURES).len(), 0);
}

#[test]
fn alerts_of_a_device_or_of_a_rule_that_come_together_are_one_request() {
    for (by, groups) in [(GroupBy::Device, 2), (GroupBy::Rule, 1), (GroupBy::None, 4)] {
        let world = World::new();
        let webhook = Hook::start(&world, &[], Answer::Status(200));
        let mut config = world.config();
        config.notify.webhook_url = webhook.url.clone();
        config.notify.group_by = by;
        // Longer than the test takes: groups are cut by their size, or at the end.
        config.notify.group_wait_ms = 600_000;
        let role = Role::start(&world, &config);
        for number in 0..4u32 {
            world.say(&alert(&format!("a{number}"), number % 2, AlertState::Firing));
        }
        until("all wait or were sent", || {
            role.metric("penstock_notify_alerts_read_total{receiver=\"webhook\"}") == 4.0
        });
        if by != GroupBy::None {
            assert_eq!(webhook.came().len(), 0, "{by}");
        }
        // What waits is sent before the role ends, and committed.
        role.stop(&world);
        assert_eq!((webhook.came().len(), webhook.taken().len()), (groups, 4), "{by}");
        world.until_committed(&config, Receiver::Webhook);
    }
}

#[test]
fn what_fails_is_tried_again_until_it_works_and_order_is_kept() {
    let world = World::new();
    let script =
        [Answer::Status(500), Answer::Hang, Answer::Later(429, 0), Answer::Status(401), Answer::Status(302)];
    let webhook = Hook::start(&world, &script, Answer::Status(200));
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    config.notify.timeout_ms = 300;
    let role = Role::start(&world, &config);
    world.say(&firing("a"));
    until("the first attempt failed", || !webhook.came().is_empty());
    world.say(&resolved("a"));
    until("both were taken", || webhook.taken().len() == 2);
    assert_eq!(webhook.taken(), ["a", "a-"]);
    assert!(webhook.came().len() >= 7);
    world.until_committed(&config, Receiver::Webhook);
    for outcome in ["server-error", "timeout", "too-many-requests", "not-authorized", "redirected"] {
        let name = format!("penstock_notify_requests_total{{receiver=\"webhook\",outcome=\"{outcome}\"}}");
        assert_eq!(role.metric(&name), 1.0, "{outcome}");
    }
    role.stop(&world);
}

#[test]
fn what_is_refused_for_good_becomes_a_dead_letter_and_nothing_beside_it() {
    let world = World::new();
    let bad = |body: &Value| if ids(body).iter().any(|id| id.starts_with("bad")) { 400 } else { 200 };
    let webhook = Hook::start(&world, &[], Answer::Judge(bad));
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    config.notify.group_wait_ms = 600_000;
    config.notify.group_alerts_max = 9;
    let role = Role::start(&world, &config);
    let alerts: Vec<_> = (0..9)
        .map(|number| firing(&format!("{}{number}", if number % 4 == 1 { "bad" } else { "good" })))
        .collect();
    world.say_all(&alerts);
    world.until_committed(&config, Receiver::Webhook);
    assert_eq!(webhook.taken(), ["good0", "good2", "good3", "good4", "good6", "good7", "good8"]);
    let letters = world.records(DELIVERY_FAILURES);
    assert_eq!(letters.len(), 2);
    for (key, payload, headers) in &letters {
        let alert =
            alerts.iter().find(|alert| penstock_proto::alert_json::to_json(alert).as_bytes() == payload);
        assert_eq!(key, alert.unwrap().device_id.as_bytes());
        assert_eq!(header_of(headers, header::REASON), Some("refused-by-receiver"));
        assert_eq!(header_of(headers, header::RECEIVER), Some("webhook"));
        assert_eq!(header_of(headers, header::DETAIL), Some("HTTP status 400: said the receiver"));
        let source = header_of(headers, header::SOURCE_TOPIC).unwrap();
        assert!(source.ends_with("alert.events.device-alerts") && source.starts_with(&world.prefix));
        assert!(header_of(headers, header::SOURCE_OFFSET).unwrap().parse::<i64>().is_ok());
    }
    role.stop(&world);
}

#[test]
fn what_cannot_be_delivered_in_time_becomes_a_dead_letter() {
    let world = World::new();
    let webhook = Hook::start(&world, &[], Answer::Status(200));
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    config.notify.give_up_after_ms = 500;
    let role = Role::start(&world, &config);
    // A new group looks back as far as it gives up: it is to be there before the alert that counts.
    world.say(&firing("before"));
    until("the group reads", || webhook.taken() == ["before"]);
    webhook.usually(Answer::Status(503));
    world.say(&firing("a"));
    world.until_committed(&config, Receiver::Webhook);
    let letters = world.records(DELIVERY_FAILURES);
    assert_eq!(letters.len(), 1);
    assert_eq!(header_of(&letters[0].2, header::REASON), Some("undelivered"));
    assert_eq!(header_of(&letters[0].2, header::DETAIL), Some("HTTP status 503: said the receiver"));
    // Nothing is stuck: what comes next is delivered once the receiver works.
    webhook.usually(Answer::Status(200));
    world.say(&firing("b"));
    until("the next is taken", || webhook.taken() == ["before", "b"]);
    role.stop(&world);
}

#[test]
fn a_receiver_that_hangs_stops_nobody_else_and_memory_stays_flat() {
    const ALERTS: u32 = 3_000;
    let world = World::new();
    let manager = Hook::start(&world, &[], Answer::Status(200));
    let webhook = Hook::start(&world, &[], Answer::Hang);
    let mut config = world.config();
    config.notify.alertmanager_url = manager.url.clone();
    config.notify.webhook_url = webhook.url.clone();
    config.notify.queue_records_max = 100;
    config.notify.timeout_ms = 500;
    let role = Role::start(&world, &config);
    let alerts: Vec<_> =
        (0..ALERTS).map(|number| alert(&number.to_string(), number, AlertState::Firing)).collect();
    world.say_all(&alerts);
    world.until_committed(&config, Receiver::Alertmanager);
    let taken: BTreeSet<_> = manager.taken().into_iter().collect();
    assert_eq!(taken.len(), ALERTS as usize);
    until("reading pauses", || role.metric("penstock_notify_paused{receiver=\"webhook\"}") == 1.0);
    until("it was tried", || webhook.came().len() > 8);
    // The bound, and what one poll may bring beyond it.
    let waiting = role.metric("penstock_notify_waiting_alerts{receiver=\"webhook\"}");
    assert!((100.0..=600.0).contains(&waiting), "{waiting} wait");
    assert_eq!(webhook.taken().len(), 0);
    assert_eq!(world.committed(&config, Receiver::Webhook), 0, "nothing was delivered");
    webhook.usually(Answer::Status(200));
    world.until_committed(&config, Receiver::Webhook);
    let taken: BTreeSet<_> = webhook.taken().into_iter().collect();
    assert_eq!(taken.len(), ALERTS as usize, "nothing is missing");
    assert_eq!(world.records(DELIVERY_FAILURES).len(), 0);
    role.stop(&world);
}

#[test]
fn silences_hold_back_what_begins_and_are_followed_live() {
    let world = World::new();
    let manager = Hook::start(&world, &[], Answer::Status(200));
    let webhook = Hook::start(&world, &[], Answer::Status(200));
    world.control("silence/rule", &format!("{{\"rule\": \"cold\", \"until\": \"{FOREVER}\"}}"));
    world.control("silence/broken", "{");
    let mut config = world.config();
    config.notify.alertmanager_url = manager.url.clone();
    config.notify.webhook_url = webhook.url.clone();
    let role = Role::start(&world, &config);
    assert_eq!(role.metric("penstock_notify_silences"), 1.0, "it is known before the role is ready");
    assert_eq!(role.metric("penstock_notify_controls_refused_total"), 1.0);
    let cold =
        |id: &str, state| penstock_proto::v1::DeviceAlert { rule: "cold".into(), ..alert(id, 1, state) };
    world.say(&cold("x", AlertState::Firing));
    world.say(&cold("y", AlertState::Firing));
    world.say(&cold("x", AlertState::Resolved));
    world.say(&firing("a"));
    until("the other is taken", || webhook.taken() == ["a"] && manager.taken() == ["a"]);
    world.until_committed(&config, Receiver::Webhook);
    assert_eq!(role.metric("penstock_notify_alerts_total{receiver=\"webhook\",outcome=\"silenced\"}"), 3.0);
    // A device is silenced while the role runs.
    let silence = format!("{{\"device\": \"{}\", \"until\": \"{FOREVER}\"}}", support::device(7));
    world.control("silence/device", &silence);
    until("it is known", || role.metric("penstock_notify_silences") == 2.0);
    world.say(&alert("b", 7, AlertState::Firing));
    world.say(&alert("c", 8, AlertState::Firing));
    until("the other is taken", || webhook.taken().contains(&"c".to_owned()));
    assert!(!webhook.taken().contains(&"b".to_owned()));
    // What still fires when its silence is taken back is notified then; what has ended is not.
    world.take_back("silence/rule");
    until("y is taken", || {
        let has = |hook: &Hook| hook.taken().contains(&"y".to_owned());
        has(&webhook) && has(&manager)
    });
    assert!(!webhook.taken().iter().chain(&manager.taken()).any(|id| id.starts_with('x')));
    role.stop(&world);
}

#[test]
fn an_acknowledged_alert_is_not_repeated_and_its_end_is_told() {
    let world = World::new();
    let webhook = Hook::start(&world, &[], Answer::Status(200));
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    let role = Role::start(&world, &config);
    world.say(&firing("a"));
    until("it is taken", || webhook.taken() == ["a"]);
    world.control("ack/a", "{\"by\": \"ann\"}");
    until("it is known", || role.metric("penstock_notify_acknowledgements") == 1.0);
    for repeat in 1..4 {
        world.say(&penstock_proto::v1::DeviceAlert { repeat, ..firing("a") });
    }
    world.say(&resolved("a"));
    until("its end is taken", || webhook.taken() == ["a", "a-"]);
    assert_eq!(webhook.came().last().unwrap().body["alerts"][0]["acknowledged"], true);
    assert_eq!(
        role.metric("penstock_notify_alerts_total{receiver=\"webhook\",outcome=\"acknowledged\"}"),
        3.0
    );
    role.stop(&world);
}

#[test]
fn an_alertmanager_that_was_restarted_is_told_again_of_what_fires() {
    let world = World::new();
    let mut config = world.config();
    config.notify.alertmanager_resend_ms = 1_000;
    let first = Hook::start(&world, &[], Answer::Status(200));
    config.notify.alertmanager_url = first.url.clone();
    let role = Role::start(&world, &config);
    world.say(&firing("a"));
    world.say(&firing("b"));
    world.say(&resolved("b"));
    until("it is told again and again", || first.taken().iter().filter(|id| *id == "a").count() >= 3);
    world.until_committed(&config, Receiver::Alertmanager);
    role.stop(&world);
    // Another process, and an Alertmanager that knows nothing: no record comes, and it is told all the same.
    let second = Hook::start(&world, &[], Answer::Status(200));
    config.notify.alertmanager_url = second.url.clone();
    let role = Role::start(&world, &config);
    until("the second is told", || second.taken().iter().filter(|id| *id == "a").count() >= 2);
    assert!(second.taken().iter().all(|id| id == "a"), "{:?}", second.taken());
    role.stop(&world);
}

#[test]
fn a_group_that_is_new_tells_of_what_still_fires_and_not_of_what_is_long_over() {
    let world = World::new();
    world.said(&firing("over"), 3 * HOUR);
    world.said(&resolved("over"), 2 * HOUR);
    world.said(&firing("still"), 2 * HOUR);
    world.say(&firing("new"));
    world.say(&resolved("new"));
    let webhook = Hook::start(&world, &[], Answer::Status(200));
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    let role = Role::start(&world, &config);
    until("all are told", || webhook.taken().len() == 3);
    let taken: BTreeSet<_> = webhook.taken().into_iter().collect();
    assert_eq!(taken, ["new", "new-", "still"].map(str::to_owned).into());
    world.until_committed(&config, Receiver::Webhook);
    role.stop(&world);
}

#[test]
fn a_record_that_is_no_alert_becomes_a_dead_letter_and_stops_nothing() {
    let world = World::new();
    let webhook = Hook::start(&world, &[], Answer::Status(200));
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    let role = Role::start(&world, &config);
    for payload in [&b"not JSON"[..], b"{}", b"{\"id\": 7}", b"\xff"] {
        world.say_bytes(payload);
    }
    world.say(&firing("a"));
    world.until_committed(&config, Receiver::Webhook);
    until("the alert is taken", || webhook.taken() == ["a"]);
    let letters = world.records(DELIVERY_FAILURES);
    let mut payloads: Vec<_> = letters.iter().map(|(_, payload, _)| payload.as_slice()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [&b"not JSON"[..], b"{\"id\": 7}", b"{}", b"\xff"]);
    for (key, _, headers) in &letters {
        assert_eq!(
            (key.as_slice(), header_of(headers, header::REASON)),
            (&b"a key"[..], Some("undecodable"))
        );
        assert_eq!(header_of(headers, header::SOURCE_PARTITION), Some("3"));
    }
    assert_eq!(role.metric("penstock_notify_alerts_total{receiver=\"webhook\",outcome=\"malformed\"}"), 4.0);
    role.stop(&world);
}

#[test]
fn what_could_not_be_delivered_before_the_end_is_delivered_after_the_next_start() {
    let world = World::new();
    let webhook = Hook::start(&world, &[], Answer::Hang);
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    config.notify.drain_timeout_ms = 500;
    let role = Role::start(&world, &config);
    world.say(&firing("a"));
    until("it is tried", || !webhook.came().is_empty());
    role.stop(&world);
    assert_eq!(world.committed(&config, Receiver::Webhook), 0);
    webhook.usually(Answer::Status(200));
    let role = Role::start(&world, &config);
    until("it is taken", || webhook.taken() == ["a"]);
    world.until_committed(&config, Receiver::Webhook);
    role.stop(&world);
}

#[test]
fn two_processes_share_the_partitions_and_nothing_is_missing_when_one_leaves() {
    let world = World::new();
    let webhook = Hook::start(&world, &[], Answer::Status(200));
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    let roles = [Role::start(&world, &config), Role::start(&world, &config)];
    let say = |from: u32| {
        let alerts: Vec<_> =
            (from..from + 300).map(|number| alert(&number.to_string(), number, AlertState::Firing)).collect();
        world.say_all(&alerts);
    };
    say(0);
    let read = |role: &Role| role.metric("penstock_notify_alerts_read_total{receiver=\"webhook\"}");
    world.until_committed(&config, Receiver::Webhook);
    // Both get their share sooner or later.
    let mut next = 300;
    until("both read", || {
        if read(&roles[0]) > 0.0 && read(&roles[1]) > 0.0 {
            return true;
        }
        say(next);
        next += 300;
        world.until_committed(&config, Receiver::Webhook);
        false
    });
    let [first, second] = roles;
    say(next);
    first.stop(&world);
    say(next + 300);
    world.until_committed(&config, Receiver::Webhook);
    let taken: BTreeSet<_> = webhook.taken().into_iter().collect();
    assert_eq!(taken.len(), next as usize + 600);
    second.stop(&world);
}
