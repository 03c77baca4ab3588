use std::path::Path;

use penstock_proto::v1::{AlertState, DeviceAlert, SensorReading};
use prost::Message as _;

use super::*;

const START_MS: i64 = 1_790_000_000_000;

fn rules(text: &str) -> Arc<RuleSet> {
    Arc::new(RuleSet::parse("t", text, Path::new("")).unwrap_or_else(|error| panic!("{error}")))
}

/// A rule of temperature with these keys.
fn rule(keys: &str) -> Arc<RuleSet> {
    rules(&format!("[rules.r]\nmetric = \"temperature\"\n{}", keys.replace("; ", "\n")))
}

fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 16])
}

struct Bench {
    engine: Engine,
    offset: i64,
    out: Vec<Raised>,
}

impl Bench {
    fn new(rules: Arc<RuleSet>) -> Self {
        Self { engine: Engine::new(rules, 7), offset: 0, out: Vec::new() }
    }

    /// A reading of device 1, so many seconds after the start; received when it was measured.
    fn read(&mut self, second: i64, temperature: f32) -> &mut Self {
        self.send(1, second, SensorReading { temperature: Some(temperature), ..SensorReading::default() })
    }

    fn send(&mut self, number: u8, second: i64, reading: SensorReading) -> &mut Self {
        self.offset += 1;
        let time_ms = START_MS + second * 1_000;
        let sequence = self.offset.cast_unsigned();
        let bytes = SensorReading { timestamp: time_ms, sequence, ..reading }.encode_to_vec();
        let view = ReadingView::decode(&bytes).unwrap();
        let reading =
            Reading { device: device(number), offset: self.offset, received_ms: time_ms, view: &view };
        self.engine.reading(&reading, &mut self.out);
        self
    }

    fn advance(&mut self, second: i64) -> &mut Self {
        self.engine.advance(START_MS + second * 1_000, &mut self.out);
        self
    }

    /// What was said since the last call: `+` firing, `-` resolved, `*` repeated, the second, the reason.
    fn said(&mut self) -> Vec<String> {
        let say = |alert: &DeviceAlert| {
            let sign = match (alert.state(), alert.repeat) {
                (AlertState::Firing, 0) => "+".to_owned(),
                (AlertState::Firing, repeat) => "*".repeat(repeat as usize),
                _ => "-".to_owned(),
            };
            let reason = if alert.reason.is_empty() { String::new() } else { format!(" {}", alert.reason) };
            format!("{sign}{}{reason}", (alert.time - START_MS) / 1_000)
        };
        self.out.drain(..).map(|raised| say(&raised.alert)).collect()
    }
}

#[test]
fn a_threshold_has_hysteresis() {
    let mut bench = Bench::new(rule("kind = \"threshold\"; above = 80; clear = 75; severity = \"critical\""));
    bench.read(1, 80.0).read(2, 80.1).read(3, 90.0).read(4, 76.0).read(5, 75.0).read(6, 79.0).read(7, 81.0);
    let alert = bench.out[0].alert.clone();
    assert_eq!(bench.said(), ["+2", "-5", "+7"]);
    assert_eq!((alert.rule.as_str(), alert.severity().as_str_name()), ("r", "ALERT_SEVERITY_CRITICAL"));
    assert_eq!(
        (alert.onset, alert.time, alert.value, alert.threshold),
        (START_MS + 2_000, START_MS + 2_000, 80.1, 80.0)
    );
    assert_eq!((alert.source_partition, alert.source_offset, alert.reading_count), (7, 2, 1));
    assert_eq!(alert.text, "r on 01010101-0101-0101-0101-010101010101: temperature 80.1 (limit 80)");
    assert_eq!(alert.id.len(), 36);
}

#[test]
fn sustained_counts_within_its_window_wherever_a_reading_belongs() {
    let keys = "kind = \"sustained\"; above = 80; count = 3; window = \"60s\"";
    let mut bench = Bench::new(rule(&format!("{keys}; on-late = {{ allow = \"30s\" }}")));
    bench.read(0, 81.0).read(30, 81.0).read(60, 81.0);
    assert_eq!(bench.said(), Vec::<String>::new(), "the first one has left the window");
    bench.read(45, 81.0);
    assert_eq!(bench.said(), ["+45"]);
    bench.read(29, 81.0);
    assert_eq!(bench.engine.counts().late, 1);
    bench.read(95, 20.0);
    assert_eq!(bench.said(), ["-95"]);
}

#[test]
fn levels_of_a_battery_have_episodes_of_their_own() {
    let mut bench = Bench::new(rules("[rules.b]\nkind = \"low-battery\"\nhysteresis = 2"));
    let battery = |level| SensorReading { battery_level: Some(level), ..SensorReading::default() };
    for (second, level) in [(1, 11), (2, 9), (3, 4), (4, 6), (5, 7), (6, 11), (7, 12)] {
        bench.send(1, second, battery(level));
    }
    let told: Vec<_> =
        bench.out.iter().map(|raised| (raised.low_battery, raised.alert.severity() as i32)).collect();
    assert_eq!(told, [(true, 2), (true, 3), (true, 3), (true, 2)]);
    let ids: Vec<_> = bench.out.iter().map(|raised| raised.alert.id.clone()).collect();
    assert!(ids[0] == ids[3] && ids[1] == ids[2] && ids[0] != ids[1]);
    assert_eq!(bench.said(), ["+2", "+3", "-5", "-7"]);
}

#[test]
fn a_gap_does_not_count_as_holding() {
    let mut bench = Bench::new(rule("kind = \"for\"; above = 80; for = \"60s\"; max-gap = \"30s\""));
    bench.read(0, 81.0).read(30, 81.0).read(61, 81.0).read(91, 81.0).read(121, 81.0).read(122, 80.0);
    assert_eq!(bench.out[0].alert.window_start, START_MS + 61_000);
    assert_eq!(bench.said(), ["+121", "-122"]);
}

#[test]
fn n_of_m_goes_by_readings() {
    let mut bench = Bench::new(rule("kind = \"n-of-m\"; above = 80; n = 2; m = 3"));
    bench.read(0, 81.0).read(1_000, 1.0).read(2_000, 81.0).read(3_000, 1.0).read(4_000, 1.0);
    assert_eq!(bench.said(), ["+2000", "-3000"]);
}

#[test]
fn the_rate_of_change_is_measured_over_a_time() {
    let mut bench = Bench::new(rule("kind = \"rate-of-change\"; above = 5; per = \"1m\"; over = \"1m\""));
    bench.read(0, 20.0).read(1, 90.0).read(30, 22.0).read(60, 26.0).read(90, 26.0).read(500, 99.0);
    assert_eq!(bench.out[0].alert.value, 6.0);
    assert_eq!(bench.said(), ["+60", "-90"]);
}

#[test]
fn silence_is_raised_when_due_whether_looked_at_or_not() {
    let text = rules("[rules.s]\nkind = \"no-data\"\nfor = \"60s\"\nrepeat-every = \"100s\"");
    let mut bench = Bench::new(text);
    bench.read(0, 1.0).advance(59);
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.advance(200).advance(299).advance(300).advance(400);
    let alert = bench.out[0].alert.clone();
    assert_eq!(
        (alert.onset, alert.time, alert.value, alert.source_offset),
        (START_MS + 60_000, START_MS + 60_000, 60.0, 1)
    );
    assert_eq!(bench.said(), ["+60", "*300", "**400"]);
    bench.read(410, 1.0);
    assert_eq!(bench.said(), ["-410"]);
    bench.read(1_000, 1.0);
    assert_eq!(bench.said(), ["+470", "-1000"]);
    assert_eq!(bench.engine.firing(), 0);
}

#[test]
fn the_queue_of_deadlines_does_not_grow_with_episodes() {
    let mut bench = Bench::new(rules("[rules.s]\nkind = \"no-data\"\nfor = \"1s\"\nrepeat-every = \"300d\""));
    for second in 0..5_000 {
        bench.read(2 * second, 1.0).advance(2 * second + 1);
    }
    assert_eq!(bench.said().len(), 2 * 5_000 - 1);
    assert!(bench.engine.deadlines.len() <= STALE_MAX + 3, "{}", bench.engine.deadlines.len());
}

#[test]
fn keep_firing_outlasts_the_condition() {
    let mut bench = Bench::new(rule("kind = \"threshold\"; above = 80; keep-firing = \"10s\""));
    bench.read(1, 81.0).read(2, 1.0).read(5, 81.0).read(6, 1.0).read(15, 1.0).read(16, 1.0);
    assert_eq!(bench.said(), ["+1", "-16"]);
    bench.read(20, 81.0).read(21, 1.0).read(40, 81.0);
    assert_eq!(bench.said(), ["+20", "-40", "+40"], "kept only so long, even if nothing comes in between");
}

#[test]
fn flapping_is_said_once_and_held_until_it_is_calm() {
    let mut bench =
        Bench::new(rule("kind = \"threshold\"; above = 80; flapping = { flips = 3, window = \"60s\" }"));
    for second in 1..12 {
        bench.read(second, if second % 2 == 1 { 81.0 } else { 1.0 });
    }
    assert_eq!(bench.said(), ["+1", "-2", "+3", "-4", "+5 flapping"]);
    assert_eq!(bench.engine.counts().suppressed, 3);
    bench.read(12, 1.0).read(71, 1.0);
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.read(72, 1.0).read(73, 81.0).read(74, 1.0);
    assert_eq!(bench.said(), ["-72", "+73", "-74"]);
}

#[test]
fn an_episode_is_repeated() {
    let mut bench = Bench::new(rule("kind = \"threshold\"; above = 80; repeat-every = \"10s\""));
    bench.read(1, 81.0).read(10, 81.0).read(11, 81.0).read(40, 81.0).read(41, 1.0);
    assert_eq!(bench.said(), ["+1", "*11", "**40", "-41"]);
}

#[test]
fn what_was_seen_is_passed_over() {
    let mut bench = Bench::new(rule("kind = \"threshold\"; above = 80"));
    bench.read(1, 81.0);
    bench.offset = 0;
    bench.read(2, 1.0);
    assert_eq!(bench.said(), ["+1"]);
    assert_eq!(bench.engine.counts().seen, 1);
}

#[test]
fn changed_devices_are_handed_out_once() {
    let mut bench = Bench::new(rule("kind = \"threshold\"; above = 80"));
    let hot = SensorReading { temperature: Some(1.0), ..SensorReading::default() };
    for number in 1..=3 {
        bench.send(number, 1, hot.clone());
    }
    bench.send(1, 2, hot.clone());
    bench.send(9, 2, SensorReading::default());
    assert_eq!(bench.engine.devices(), 3, "nothing is known of a device without the metric");
    let mut dirty = Vec::new();
    bench.engine.mark_clean(device(2));
    bench.engine.take_dirty(1, &mut dirty);
    bench.engine.take_dirty(5, &mut dirty);
    assert_eq!(dirty, [device(1), device(3)]);
    bench.send(2, 3, hot);
    bench.engine.mark_dirty(device(3));
    dirty.clear();
    bench.engine.take_dirty(5, &mut dirty);
    assert_eq!(dirty, [device(2), device(3)]);
    assert!(bench.engine.bytes() > 3 * 32);
}

const TWO: &str = "\
[rules.hot]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 80\n
[rules.warm]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 30\n";

#[test]
fn other_rules_keep_what_means_the_same() {
    let mut bench = Bench::new(rules(TWO));
    bench.read(1, 81.0);
    assert_eq!((bench.said().len(), bench.engine.firing()), (2, 2));
    let mut dirty = Vec::new();
    bench.engine.take_dirty(9, &mut dirty);
    // In another order, with another text.
    let same = rules(
        "[rules.warm]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 30\ntext = \"new\"\n
         [rules.hot]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 80\nclear = 80\n",
    );
    bench.engine.adopt(same, 0, &mut bench.out);
    assert_eq!((bench.said().len(), bench.engine.firing()), (0, 2));
    bench.engine.take_dirty(9, &mut dirty);
    assert_eq!(dirty, [device(1)], "nothing has changed");
    let other = rules("[rules.hot]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 81.5\n");
    bench.engine.adopt(Arc::clone(&other), 0, &mut bench.out);
    assert_eq!(bench.engine.firing(), 0);
    assert_eq!(bench.engine.snapshot(device(1)), None);
    let mut told: Vec<_> =
        bench.out.iter().map(|raised| (raised.alert.rule.as_str(), raised.alert.reason.as_str())).collect();
    told.sort_unstable();
    assert_eq!(told, [("hot", "rule-changed"), ("warm", "rule-removed")]);
    assert!(bench.out.iter().all(|raised| raised.alert.state() == AlertState::Resolved));
    dirty.clear();
    bench.engine.take_dirty(9, &mut dirty);
    assert_eq!(
        (dirty.as_slice(), bench.engine.devices()),
        (&[device(1)][..], 0),
        "its state is to be removed"
    );
    bench.said();
    bench.read(2, 82.0);
    assert_eq!(bench.said(), ["+2"], "a changed rule starts anew");
}

#[test]
fn rules_that_changed_while_nobody_ran_end_their_episodes_at_the_restore() {
    let mut bench = Bench::new(rules(TWO));
    bench.read(1, 81.0);
    let raised = std::mem::take(&mut bench.out);
    let bytes = bench.engine.snapshot(device(1)).unwrap();
    let mut engine =
        Engine::new(rules("[rules.hot]\nkind = \"threshold\"\nmetric = \"temperature\"\nbelow = 0\n"), 7);
    let mut out = Vec::new();
    engine.restore(device(1), &bytes, &mut out).unwrap();
    let told: Vec<_> =
        out.iter().map(|raised| (raised.alert.rule.as_str(), raised.alert.reason.as_str())).collect();
    assert_eq!(told, [("hot", "rule-changed"), ("warm", "rule-removed")]);
    for (raised, resolved) in raised.iter().zip(&out) {
        assert_eq!(raised.alert.id, resolved.alert.id);
        assert_eq!(raised.alert.threshold, resolved.alert.threshold);
    }
    // The same as if it had been running.
    let mut live = Vec::new();
    bench.engine.adopt(Arc::clone(engine.rules()), 0, &mut live);
    assert_eq!(live, out);
    let mut dirty = Vec::new();
    engine.take_dirty(9, &mut dirty);
    assert_eq!(dirty, [device(1)]);
}

#[test]
fn a_device_that_is_no_longer_meant_ends_its_episodes() {
    let hot = "[rules.hot]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 80\n";
    let mut bench = Bench::new(rules(hot));
    bench.read(1, 81.0);
    bench.said();
    let others = rules(&format!("{hot}devices = [\"0a1b2c3d-0000-4000-8000-0123456789ab\"]"));
    bench.engine.adopt(others, 0, &mut bench.out);
    assert_eq!(bench.said(), ["-1 rule-changed"]);
}

#[test]
fn adopting_rules_says_first_what_was_due() {
    let mut bench = Bench::new(rules("[rules.s]\nkind = \"no-data\"\nfor = \"60s\""));
    bench.read(0, 1.0);
    bench.engine.adopt(rules("[rules.b]\nkind = \"low-battery\""), START_MS + 61_000, &mut bench.out);
    assert_eq!(bench.said(), ["+60", "-60 rule-removed"]);
}

#[test]
fn snapshots_of_others_are_refused() {
    let mut engine = Engine::new(rules(TWO), 7);
    let mut restore = |bytes: &[u8]| engine.restore(device(1), bytes, &mut Vec::new()).unwrap_err();
    assert_eq!(restore(&[]), SnapshotError::Truncated);
    assert_eq!(restore(&[2]), SnapshotError::Version(2));
    assert_eq!(restore(&vec![1; snapshot::BYTES_MAX + 1]), SnapshotError::TooLarge(snapshot::BYTES_MAX + 1));
    assert_eq!(restore(&[1, 0, 0, 0, 0, 9]), SnapshotError::Invalid("something behind its end"));
}

#[test]
fn an_idle_rule_takes_few_bytes_of_state() {
    let text: String = (0..10)
        .map(|n| {
            format!("[rules.r{n}]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = {}\n", 50 + n)
        })
        .collect();
    let mut bench = Bench::new(rules(&text));
    for second in 0..100 {
        bench.read(second, 20.0);
    }
    let bytes: usize = bench.engine.devices.values().map(Device::bytes).sum();
    assert!(bytes <= 10 * 7 + 16, "{bytes} bytes");
}

/// What other versions have written must be readable, and mean the same: when this fails, the version of snapshots or the
/// prefix of fingerprints has to change, and what was written before has to be read.
#[test]
fn what_is_saved_stays_readable_from_version_to_version() {
    let set = rules(
        "[rules.a]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 80\nflapping = { flips = 2, window = \"1m\" }\n
         [rules.b]\nkind = \"for\"\nmetric = \"temperature\"\nabove = 80\nfor = \"1m\"\non-late = { allow = \"1m\" }\n
         [rules.c]\nkind = \"sustained\"\nmetric = \"temperature\"\nabove = 80\ncount = 2\nwindow = \"1m\"\n
         [rules.d]\nkind = \"n-of-m\"\nmetric = \"temperature\"\nabove = 80\nn = 2\nm = 3\n
         [rules.e]\nkind = \"rate-of-change\"\nmetric = \"temperature\"\nabove = 80\nper = \"1m\"\nover = \"1m\"\n
         [rules.f]\nkind = \"no-data\"\nfor = \"1m\"\n
         [rules.g]\nkind = \"low-battery\"\n",
    );
    let mut bench = Bench::new(set);
    bench.read(0, 81.0).read(30, 85.5).send(
        1,
        40,
        SensorReading { battery_level: Some(3), ..SensorReading::default() },
    );
    let bytes = bench.engine.snapshot(device(1)).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN);
}

const GOLDEN: &str = "\
    010680a188c5986803080c11b9b269d49916f8a09c0102020000e0d40300e0d4030001e0d40301610200000000000054\
    4059cd00b25c5af19d83a09c010200020000000000ab42e0d40302000000a24200031ba82c4fcf1192b9a09c01020200\
    00e0d40302000000000163020000000000005440f0714485f506b04ebaa09c010202000001e0d4030201000000000164\
    0200000000000054406e8d7d7a044bff7d84a09c01020200000000ab42e0d403000000a2420100000000ab4200002e39\
    ec4cc992a2ce0500296925e09c93541db800000200000000000001670600000000000024409c46bf2b9d6f34a3b80000\
    020000000000000167070000000000001440";
