//! G4 against a real Kafka: each alert that the rules ask for is there exactly once, whatever stages come and go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use penstock_alerter::{AlerterError, RuleSet};
use penstock_devstack::{Kafka, KafkaOptions};
use penstock_kafka::{ScanFrom, Scanner};
use penstock_proto::topics::ALERT_STATE;
use penstock_proto::v1::{AlertState, DeviceAlert, SensorReading};
use penstock_service::Config;

use support::{Alerter, Source, alerts, config, key, reading, settings, settled, until};

fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| Kafka::start(&KafkaOptions::default()).expect("Kafka starts"))
}

const RULES: &str = r#"
[rules.hot]
kind = "threshold"
metric = "temperature"
above = 50
clear = 45
severity = "warning"

[rules.HIGH]
kind = "sustained"
metric = "temperature"
above = 80
count = 5
window = "20s"
severity = "critical"

[rules.battery]
kind = "low-battery"
warning = 10
critical = 5
"#;

/// Writes a rules file into a folder of its own.
fn rules_file(config: &mut Config, text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    config.alerts.rules = folder.path().join("rules.toml");
    std::fs::write(&config.alerts.rules, text).unwrap();
    folder
}

fn parsed(text: &str) -> Arc<RuleSet> {
    Arc::new(RuleSet::parse("rules.toml", text, Path::new("")).unwrap())
}

/// A second of readings of many devices: some are hot now and then, for short or long, and some run out of battery.
fn second(source: &mut Source, devices: u32, second: u64) {
    for device in 0..devices {
        let phase = (second + u64::from(device) * 7) % 60;
        let temperature = match device % 5 {
            0 if phase < 12 => 90.0,
            1 if phase.is_multiple_of(9) => 60.0,
            2 if phase < 3 => 85.0,
            _ => 20.0,
        };
        let battery_level = (device % 5 == 3).then(|| 14 - i32::try_from(phase).unwrap() / 5);
        source.reading(device, &SensorReading { battery_level, ..reading(second, temperature) });
    }
}

fn states(alerts: &[DeviceAlert], rule: &str) -> (usize, usize) {
    let of = |state| alerts.iter().filter(|alert| alert.rule == rule && alert.state() == state).count();
    (of(AlertState::Firing), of(AlertState::Resolved))
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_stages_that_come_and_go_raise_each_alert_once() {
    let mut config = config(kafka());
    config.alerts.checkpoint_every_ms = 1_000;
    let _folder = rules_file(&mut config, RULES);
    let rules = parsed(RULES);
    let first = Alerter::ready(&config).await;
    let mut source = Source::new(&config);
    for time in 0..60 {
        second(&mut source, 200, time);
    }
    source.delivered().await;
    // A second one takes half of the partitions, the first one leaves, and another one comes.
    let joined = Alerter::start(&config);
    until("partitions have moved", || async { joined.metric("penstock_alerts_restores_total") >= 24.0 })
        .await;
    for time in 60..120 {
        second(&mut source, 200, time);
    }
    source.delivered().await;
    first.stop().await.unwrap();
    for time in 120..180 {
        second(&mut source, 200, time);
    }
    source.delivered().await;
    let last = Alerter::start(&config);
    let report = settled(&config, &rules).await;
    assert_eq!(report.breaches, []);
    assert_eq!(report.readings, 200 * 180);
    let found = alerts(&config);
    for rule in ["hot", "HIGH", "battery"] {
        let (firing, resolved) = states(&found, rule);
        assert!(firing > 0 && resolved > 0, "{rule}: {firing} firing, {resolved} resolved");
    }
    joined.stop().await.unwrap();
    last.stop().await.unwrap();
    let after = settled(&config, &rules).await;
    assert_eq!((after.breaches, after.found), (vec![], report.found), "stopping raises nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_that_cause_nothing_cost_no_transaction() {
    let mut config = config(kafka());
    config.alerts.checkpoint_every_ms = 3_600_000;
    let alerter = Alerter::ready(&config).await;
    // The first checkpoint of each partition says from where it is read.
    until("it is said from where to read", || async {
        alerter.metric("penstock_alerts_checkpoints_total") >= 48.0
    })
    .await;
    let before = alerter.metric("penstock_alerts_transactions_total");
    let mut source = Source::new(&config);
    for time in 0..50 {
        (0..100).for_each(|device| source.reading(device, &reading(time, 20.0)));
    }
    source.delivered().await;
    until("readings are read", || async { alerter.metric("penstock_alerts_readings_total") >= 5_000.0 })
        .await;
    assert_eq!(alerter.metric("penstock_alerts_transactions_total"), before);
    alerter.stop().await.unwrap();
    assert_eq!(alerts(&config), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_readings_are_counted_and_passed_over() {
    let config = config(kafka());
    let alerter = Alerter::ready(&config).await;
    let mut source = Source::new(&config);
    source.record(Some(&key(1)), b"\xff\xff\xff", None);
    source.record(None, b"no key", None);
    source.record(Some(b"short key"), b"", None);
    source.record(
        Some(&key(2)),
        &prost::Message::encode_to_vec(&SensorReading { device_id: key(3).to_vec(), ..reading(0, 99.0) }),
        None,
    );
    for time in 0..5 {
        source.reading(1, &reading(time, 99.0));
    }
    source.delivered().await;
    until("the alert is there", || async { !alerts(&config).is_empty() }).await;
    until("they are counted", || async { alerter.metric("penstock_alerts_unreadable_total") >= 4.0 }).await;
    let report = settled(&config, &Arc::new(RuleSet::default_rules())).await;
    assert_eq!((report.breaches, report.found, report.readings), (vec![], 1, 5));
    alerter.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_fall_silent_are_raised_by_time_of_receipt() {
    const SILENCE: &str = "[rules.gone]\nkind = \"no-data\"\nfor = \"3s\"\nseverity = \"warning\"\n";
    let mut config = config(kafka());
    config.alerts.no_data_grace_ms = 500;
    let _folder = rules_file(&mut config, SILENCE);
    let alerter = Alerter::ready(&config).await;
    let mut source = Source::new(&config);
    (0..20).for_each(|device| source.reading(device, &reading(0, 20.0)));
    source.delivered().await;
    until("all are missed", || async { states(&alerts(&config), "gone").0 >= 20 }).await;
    alerter.stop().await.unwrap();
    // Nobody is raised again, and those that come back are resolved.
    let alerter = Alerter::ready(&config).await;
    (0..10).for_each(|device| source.reading(device, &reading(1, 20.0)));
    source.delivered().await;
    until("half of them are back", || async { states(&alerts(&config), "gone").1 >= 10 }).await;
    alerter.stop().await.unwrap();
    let report = settled(&config, &parsed(SILENCE)).await;
    assert_eq!(report.breaches, []);
    let (firing, resolved) = states(&alerts(&config), "gone");
    assert!((20..=30).contains(&firing) && resolved == 10, "{firing} firing, {resolved} resolved");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_read_again_and_a_wrong_file_changes_nothing() {
    let mut config = config(kafka());
    let _folder = rules_file(&mut config, RULES);
    let alerter = Alerter::ready(&config).await;
    let mut source = Source::new(&config);
    (0..10).for_each(|device| source.reading(device, &reading(0, 60.0)));
    source.delivered().await;
    until("they are hot", || async { states(&alerts(&config), "hot") == (10, 0) }).await;
    std::fs::write(&config.alerts.rules, "[rules.hot]\nkind = \"treshold\"\n").unwrap();
    until("the mistake is noticed", || async {
        alerter.metric("penstock_alerts_reload_errors_total") >= 1.0
    })
    .await;
    source.reading(0, &reading(1, 20.0));
    source.delivered().await;
    until("the rules still hold", || async { states(&alerts(&config), "hot") == (10, 1) }).await;
    let without = RULES.replace("[rules.hot]", "[rules.warm]").replace("above = 50", "above = 70");
    std::fs::write(&config.alerts.rules, without).unwrap();
    alerter.reload();
    until("episodes of the rule have ended", || async { states(&alerts(&config), "hot") == (10, 10) }).await;
    let removed = alerts(&config).iter().filter(|alert| alert.reason == "rule-removed").count();
    assert_eq!(removed, 9);
    alerter.stop().await.unwrap();
    // Changed while nobody runs.
    std::fs::write(&config.alerts.rules, RULES).unwrap();
    let alerter = Alerter::ready(&config).await;
    (0..10).for_each(|device| source.reading(device, &reading(2, 60.0)));
    source.delivered().await;
    until("they are hot again", || async { states(&alerts(&config), "hot").0 == 20 }).await;
    alerter.stop().await.unwrap();
    std::fs::write(&config.alerts.rules, RULES.replace("above = 50", "above = 55")).unwrap();
    let alerter = Alerter::ready(&config).await;
    until("they end with the old rule", || async { states(&alerts(&config), "hot").1 == 20 }).await;
    let changed = alerts(&config).iter().filter(|alert| alert.reason == "rule-changed").count();
    assert_eq!(changed, 10);
    alerter.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_rules_file_ends_it_at_start_with_everything_that_is_wrong() {
    let mut config = config(kafka());
    let _folder =
        rules_file(&mut config, "[rules.a]\nkind = \"treshold\"\n\n[rules.b]\nkind = \"no-data\"\n");
    let error = Alerter::start(&config).ended().await.unwrap_err();
    assert!(matches!(&error, AlerterError::Rules(_)));
    let said = error.to_string();
    assert!(
        said.contains("rules.toml:2") && said.contains("threshold") && said.contains("rules.toml:4"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_kafka_that_goes_away_delays_alerts_and_doubles_none() {
    // A Kafka of its own.
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    let mut config = config(&kafka);
    config.alerts.checkpoint_every_ms = 500;
    let _folder = rules_file(&mut config, RULES);
    let alerter = Alerter::ready(&config).await;
    let mut source = Source::new(&config);
    for round in 0..6 {
        for time in round * 30..round * 30 + 30 {
            second(&mut source, 100, time);
        }
        source.delivered().await;
        if round % 2 == 0 {
            kafka.pause().unwrap();
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            kafka.resume().unwrap();
        } else {
            tokio::task::block_in_place(|| {
                kafka.kill_9().unwrap();
                kafka.restart().unwrap();
            });
        }
    }
    let report = settled(&config, &parsed(RULES)).await;
    assert_eq!(report.breaches, []);
    assert_eq!(report.readings, 100 * 180);
    assert!(report.found > 100, "{}", report.found);
    alerter.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_says_which_readings_it_has_seen() {
    let config = config(kafka());
    let alerter = Alerter::ready(&config).await;
    let mut source = Source::new(&config);
    (0..100).for_each(|device| source.reading(device, &reading(0, 20.0)));
    source.delivered().await;
    until("readings are read", || async { alerter.metric("penstock_alerts_readings_total") >= 100.0 }).await;
    alerter.stop().await.unwrap();
    let topic = format!("{}{ALERT_STATE}", config.kafka.topic_prefix);
    let mut scanner = Scanner::open(&settings(&config), &topic, &ScanFrom::Beginning, true).unwrap();
    let (mut devices, mut marks) = (0, 0);
    while let Some(batch) = scanner.next_batch(1_000, Duration::from_secs(5)).unwrap() {
        for record in &batch {
            match record.key {
                Some(b"checkpoint") => marks += 1,
                Some(key) if key.len() == 16 => devices += 1,
                key => panic!("{key:?}"),
            }
        }
    }
    assert_eq!(devices, 100);
    assert!((48..=96).contains(&marks), "{marks}");
    // Nothing is read again after a stop in good order.
    let alerter = Alerter::ready(&config).await;
    source.reading(0, &reading(1, 20.0));
    source.delivered().await;
    until("it is read", || async { alerter.metric("penstock_alerts_readings_total") >= 1.0 }).await;
    assert_eq!(alerter.metric("penstock_alerts_readings_total"), 1.0);
    alerter.stop().await.unwrap();
}
