//! Dead letters on a real Kafka, with the real program. What is published again has an oracle: each letter once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use penstock_proto::topics::{
    DEAD_LETTERS_HANDLED, DEVICE_ALERTS, LOW_BATTERY, READINGS, READINGS_DLQ, header,
};
use penstock_proto::v1::{ReadingBatch, SensorReading};
use prost::Message;

use support::{NOW_MS, World, device, reading, until};

/// Letters of the fault tests: some dozens of transactions.
const MANY: u32 = 20_000;

/// A world with so many letters that are valid now.
fn with_letters(count: u32) -> World {
    let mut world = World::new();
    for number in 0..count {
        let payload = reading(u64::from(number)).encode_to_vec();
        world.refused_reading(device(number), &payload, "humidity-out-of-range", false);
    }
    world.delivered();
    world
}

/// Checks that each letter is one record, with the letter's payload and key, and one mark.
fn assert_each_once(world: &World, count: u32) {
    let letters: BTreeMap<String, _> = world
        .records(READINGS_DLQ)
        .into_iter()
        .map(|letter| (format!("readings/{}/{}", letter.partition, letter.offset), letter))
        .collect();
    assert_eq!(letters.len(), count as usize);
    let mut seen = BTreeMap::new();
    for record in world.settled(READINGS, 48) {
        let from = record.header(header::REPLAYED_FROM).unwrap().to_owned();
        let letter = &letters[&from];
        assert_eq!((&record.key, &record.payload), (&letter.key, &letter.payload), "{from}");
        *seen.entry(from).or_insert(0) += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "published more than once: {twice:?}");
    assert_eq!(seen.len(), count as usize, "letters that were published");
    assert_eq!(world.settled(DEAD_LETTERS_HANDLED, 6).len(), count as usize, "marks");
}

#[test]
fn letters_are_listed_newest_first_filtered_and_counted() {
    let mut world = World::new();
    assert_eq!(world.run(&["dlq", "list"]), (0, "no such letters\n".to_owned(), String::new()));
    for number in 0..5 {
        let reason = if number == 2 { "too-old" } else { "undecodable" };
        world.refused_reading(device(number), b"\xff", reason, false);
        world.delivered();
    }
    world.refused_record(Some(b"odd key"), b"\x1b[2J", (4, 99));
    world.delivered();
    let (code, listing) = world.json(&["dlq", "list", "--json"]);
    assert_eq!((code, &listing["count"]), (0, &6.into()));
    assert_eq!(listing["letters"][0]["id"].as_str().unwrap().split('/').next(), Some("storage"));
    assert_eq!(listing["letters"][1]["device"], device(4).to_string());
    assert_eq!(listing["by_reason"], serde_json::json!({"too-old": 1, "undecodable": 5}));
    let (_, some) =
        world.json(&["dlq", "list", "readings", "--reason", "undecodable", "--limit", "2", "--json"]);
    assert_eq!((&some["count"], some["letters"].as_array().unwrap().len()), (&4.into(), 2));
    let (_, own) = world.json(&["dlq", "list", "--device", &device(3).to_string(), "--json"]);
    assert_eq!(own["count"], 1);
    let (_, none) = world.json(&["dlq", "list", "--until", "1h", "--json"]);
    assert_eq!(none["count"], 0);
    let (_, recent) = world.json(&["dlq", "list", "--since", "1h", "--json"]);
    assert_eq!(recent["count"], 6);
    let (_, text, _) = world.run(&["dlq", "list"]);
    assert!(text.contains("6 letters: 6 open\n  undecodable  5\n  too-old      1\n"), "{text}");
}

#[test]
fn a_letter_is_shown_with_headers_fields_and_bytes() {
    let mut world = World::new();
    let mut payload = reading(7).encode_to_vec();
    let whole = payload.len();
    // Field 6 (battery_level), and no value.
    payload.push(0x30);
    world.refused_reading(device(1), &payload, "undecodable", false);
    world.refused_record(None, b"", (4, 99));
    world.delivered();
    let (_, listing) = world.json(&["dlq", "list", "--json"]);
    let id = |topic: &str| {
        let letters = listing["letters"].as_array().unwrap();
        let ids = letters.iter().map(|letter| letter["id"].as_str().unwrap());
        ids.into_iter().find(|id| id.starts_with(topic)).unwrap().to_owned()
    };
    let (code, text, err) = world.run(&["dlq", "show", &id("readings")]);
    assert_eq!(code, 0, "{err}");
    assert!(text.contains("penstock-client-id") && text.contains("test-client"), "{text}");
    assert!(text.contains("temperature  20.5 °C"), "{text}");
    assert!(text.contains(&format!("byte {whole}  field 6 cannot be read")), "{text}");
    let (_, shown) = world.json(&["dlq", "show", &id("readings"), "--json"]);
    assert_eq!(shown["decoded"]["trouble"]["at"], whole);
    assert_eq!(shown["device"], device(1).to_string());
    let (_, text, _) = world.run(&["dlq", "show", &id("storage")]);
    assert!(text.contains(&format!("is {}[4] offset 99", world.topic(READINGS))), "{text}");
    for (letter, says) in [("readings/0/999999", "is not there"), ("readings/77/0", "is not there")] {
        let (code, _, err) = world.run(&["dlq", "show", letter]);
        assert!(code == 1 && err.contains(says), "{err}");
    }
    assert_eq!(world.run(&["dlq", "show", "nonsense"]).0, 2);
}

#[test]
fn a_record_of_an_alert_topic_is_listed_and_shown_but_never_becomes_a_reading() {
    let mut world = World::new();
    // It would pass for a reading.
    let reading = reading(1).encode_to_vec();
    world.refused_record_of(DEVICE_ALERTS, Some(device(1).as_bytes()), &reading, (4, 99));
    world.refused_record_of(LOW_BATTERY, Some(device(2).as_bytes()), b"{\"id\": \"x\"}", (5, 7));
    world.delivered();
    let (_, listing) = world.json(&["dlq", "list", "--json"]);
    assert_eq!(listing["count"], 2);
    let letters = listing["letters"].as_array().unwrap();
    let of_battery = letters.iter().find(|letter| letter["device"] == device(2).to_string()).unwrap();
    let id = of_battery["id"].as_str().unwrap();
    let (code, text, err) = world.run(&["dlq", "show", id]);
    assert_eq!(code, 0, "{err}");
    assert!(text.contains(&format!("{}[5] offset 7", world.topic(LOW_BATTERY))), "{text}");
    assert!(text.contains("as DeviceAlert\n  {\"id\": \"x\"}\n"), "{text}");
    let (code, outcome) = world.json(&["dlq", "replay", "--json"]);
    assert_eq!((code, &outcome["done"], &outcome["alerts"]), (0, &0.into(), &2.into()));
    let (_, text, _) = world.run(&["dlq", "replay"]);
    assert!(text.contains("2 alerts not published again, and open"), "{text}");
    assert!(world.settled(READINGS, 48).is_empty());
    assert!(world.records(DEVICE_ALERTS).is_empty() && world.records(LOW_BATTERY).is_empty());
    let (code, discarded) = world.json(&["dlq", "discard", id, "--yes", "--json"]);
    assert_eq!((code, &discarded["done"]), (0, &1.into()));
}

#[test]
fn a_replay_publishes_what_is_valid_now_once_and_leaves_the_rest_open() {
    let mut world = World::new();
    let valid = reading(1).encode_to_vec();
    world.refused_reading(device(1), &valid, "humidity-out-of-range", false);
    world.refused_reading(device(2), b"\xff", "undecodable", false);
    let odd = SensorReading { humidity: Some(200.0), ..reading(2) };
    world.refused_reading(device(3), &odd.encode_to_vec(), "humidity-out-of-range", false);
    let late = SensorReading { timestamp: NOW_MS + 48 * 3_600_000, ..reading(3) };
    world.refused_reading(device(4), &late.encode_to_vec(), "in-future", false);
    let batch = ReadingBatch { readings: vec![reading(4), odd, reading(5)] };
    world.refused_reading(device(5), &batch.encode_to_vec(), "too-many-readings", true);
    world.refused_record(Some(device(6).as_bytes()), &valid, (1, 1));
    world.refused_record(Some(b"bad"), &valid, (1, 2));
    world.refused_record(None, b"", (1, 3));
    world.delivered();

    let (code, foreseen) = world.json(&["dlq", "replay", "--dry-run", "--json"]);
    assert_eq!((code, &foreseen["done"], &foreseen["dry_run"]), (0, &3.into(), &true.into()));
    assert!(world.settled(READINGS, 48).is_empty() && world.settled(DEAD_LETTERS_HANDLED, 6).is_empty());

    let (code, outcome) = world.json(&["dlq", "replay", "--json"]);
    assert_eq!(
        (code, &outcome["done"], &outcome["records"], &outcome["new_letters"]),
        (0, &3.into(), &4.into(), &1.into())
    );
    let refused = serde_json::json!({
        "bad-key": 1, "humidity-out-of-range": 1, "in-future": 1, "too-large": 1, "undecodable": 1
    });
    assert_eq!(outcome["still_refused"], refused);
    let records = world.settled(READINGS, 48);
    assert_eq!(records.len(), 4);
    for record in &records {
        assert!(record.header(header::REPLAYED_FROM).is_some());
        assert!(record.timestamp_ms > NOW_MS - 400 * 24 * 3_600_000, "retention counts from now");
        let partition = penstock_kafka::partition_for_key(&record.key, 48);
        assert_eq!(record.partition, partition.cast_signed());
    }
    let letters = world.settled(READINGS_DLQ, 6);
    let new = letters.iter().find(|letter| letter.header(header::REPLAYED_FROM).is_some()).unwrap();
    assert_eq!(new.header(header::REASON), Some("humidity-out-of-range"));
    assert_eq!(new.header(header::RECEIVED_AT), Some(NOW_MS.to_string().as_str()));

    let (_, again) = world.json(&["dlq", "replay", "--json"]);
    assert_eq!((&again["done"], &again["handled_before"]), (&0.into(), &3.into()));
    // After the limit is set wider, what it refused goes through.
    let (_, wider) = world.json(&["dlq", "replay", "--json", "--set", "bridge.timestamp_future_hours=72"]);
    assert_eq!((&wider["done"], world.settled(READINGS, 48).len()), (&1.into(), 5));
}

#[test]
fn discarded_letters_are_not_replayed_and_stay_in_the_topic() {
    let world = with_letters(20);
    assert_eq!(world.run(&["dlq", "discard", "readings"]).0, 2, "without --yes");
    assert_eq!(world.run(&["dlq", "discard", "--yes"]).0, 2, "without saying which");
    let (_, listing) = world.json(&["dlq", "list", "--json"]);
    let ids: Vec<_> = listing["letters"].as_array().unwrap()[..3]
        .iter()
        .map(|letter| letter["id"].as_str().unwrap())
        .collect();
    let (code, outcome) = world.json(&["dlq", "discard", ids[0], ids[1], ids[2], "--yes", "--json"]);
    assert_eq!((code, &outcome["done"]), (0, &3.into()));
    let (_, shown, _) = world.run(&["dlq", "show", ids[0]]);
    assert!(shown.contains("discarded at 20"), "{shown}");
    let (code, one) = world.json(&["dlq", "replay", ids[0], "readings/0/99999", "readings/77/0", "--json"]);
    assert_eq!((code, &one["done"], &one["not_found"]), (1, &0.into(), &2.into()));
    let (_, outcome) = world.json(&["dlq", "replay", "--json"]);
    assert_eq!((&outcome["done"], &outcome["handled_before"]), (&17.into(), &3.into()));
    assert_eq!((world.settled(READINGS, 48).len(), world.settled(READINGS_DLQ, 6).len()), (17, 20));
    let (_, all) = world.json(&["dlq", "list", "--all", "--json"]);
    assert_eq!(all["by_state"], serde_json::json!({"discarded": 3, "replayed": 17}));
}

#[test]
fn a_replay_that_is_killed_twice_publishes_each_letter_once_after_all() {
    let world = with_letters(MANY);
    let marks = world.watcher(DEAD_LETTERS_HANDLED, 6);
    for (kill_at, signal) in [(i64::from(MANY) / 10, Signal::SIGKILL), (i64::from(MANY) / 2, Signal::SIGKILL)]
    {
        let mut replay = world.spawn(&["dlq", "replay", "--yes"]);
        until("some letters are replayed", || marks() >= kill_at);
        assert!(replay.is_running(), "it was through before it could be killed: more letters are needed");
        replay.signal(signal);
        assert_eq!(replay.end().0, -1);
        let done = world.records(DEAD_LETTERS_HANDLED).len();
        assert!(done < MANY as usize, "it was killed too late");
    }
    let (code, outcome) = world.json(&["dlq", "replay", "--yes", "--json"]);
    assert_eq!(code, 0);
    assert!(outcome["handled_before"].as_u64().unwrap() > 0, "{outcome}");
    assert_each_once(&world, MANY);
    let (_, listing) = world.json(&["dlq", "list", "--json"]);
    assert_eq!(listing["count"], 0);
}

#[test]
fn a_replay_that_is_interrupted_says_so_and_goes_on_when_run_again() {
    let world = with_letters(MANY);
    let marks = world.watcher(DEAD_LETTERS_HANDLED, 6);
    let mut replay = world.spawn(&["dlq", "replay", "--yes"]);
    until("some letters are replayed", || marks() >= i64::from(MANY) / 10);
    replay.signal(Signal::SIGINT);
    let (code, out, err) = replay.end();
    assert!(code == 1 && out.contains("interrupted: run the same command again"), "{out}{err}");
    assert_eq!(world.run(&["dlq", "replay", "--yes"]).0, 0);
    assert_each_once(&world, MANY);
}

#[test]
fn of_two_replays_at_once_the_second_takes_over_and_each_letter_is_published_once() {
    let world = with_letters(MANY);
    let marks = world.watcher(DEAD_LETTERS_HANDLED, 6);
    let mut first = world.spawn(&["dlq", "replay", "--yes"]);
    until("some letters are replayed", || marks() >= i64::from(MANY) / 10);
    // Both are at work, however slow the second one is to start.
    first.signal(Signal::SIGSTOP);
    let (code, second) = world.json(&["dlq", "replay", "--yes", "--json"]);
    assert_eq!(code, 0);
    assert!(second["done"].as_u64().unwrap() > 0, "the first was through before: more letters are needed");
    first.signal(Signal::SIGCONT);
    let (code, _, err) = first.end();
    assert!(code == 1 && err.contains("has taken over"), "{err}");
    assert_each_once(&world, MANY);
}

#[test]
fn marks_and_letters_of_strangers_do_no_harm() {
    let mut world = World::new();
    let valid = reading(1).encode_to_vec();
    world.refused_reading(device(1), &valid, "humidity-out-of-range", false);
    world.send(READINGS_DLQ, Some(0), None, &[0xff; 4_000_000], &[(header::RECEIVED_AT, b"\xff\xff")]);
    world.send(READINGS_DLQ, Some(0), Some(b""), b"", &[]);
    world.send(DEAD_LETTERS_HANDLED, Some(0), Some(b"no/such/letter"), b"{", &[]);
    world.delivered();
    let (code, outcome) = world.json(&["dlq", "replay", "--json"]);
    assert_eq!((code, &outcome["done"]), (0, &1.into()));
    assert_eq!(outcome["still_refused"], serde_json::json!({"bad-key": 2}));
    let (code, shown) = world.json(&["dlq", "show", "readings/0/0", "--json", "--bytes", "1000000000"]);
    assert_eq!(code, 0);
    assert!(shown["bytes"].as_u64().is_some());
}
