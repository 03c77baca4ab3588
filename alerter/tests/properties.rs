//! The engine against the plain reference implementation, with restarts at any point, and against garbage.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::reference::{Kind, Record, Reference, Rule};
use common::{Made, Step, busy_steps, device_id, kinds_with_a_tail, named, rule_of, rule_set, rules, steps};
use penstock_alerter::{Engine, Raised, RuleSet};
use penstock_proto::DeviceId;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

fn records(raised: &[Raised]) -> Vec<Record> {
    raised.iter().map(Record::of).collect()
}

/// By device: between devices `advance` promises no order.
fn by_device(records: Vec<Record>) -> BTreeMap<String, Vec<Record>> {
    let mut devices: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in records {
        devices.entry(record.device.clone()).or_default().push(record);
    }
    devices
}

/// Every record of an episode has its id, each id one first firing record and at most one resolved record, in turns.
fn check_episodes(raised: &[Raised]) {
    let mut open: HashMap<(String, String, i32), String> = HashMap::new();
    let mut ids: HashMap<String, i64> = HashMap::new();
    for Raised { alert, .. } in raised {
        let track = (alert.device_id.clone(), alert.rule.clone(), alert.severity);
        match (alert.state().as_str_name(), alert.repeat) {
            ("ALERT_STATE_FIRING", 0) => {
                assert!(ids.insert(alert.id.clone(), alert.onset).is_none(), "an id twice: {alert:?}");
                assert!(open.insert(track, alert.id.clone()).is_none(), "two episodes at once: {alert:?}");
            }
            ("ALERT_STATE_FIRING", _) => assert_eq!(open.get(&track), Some(&alert.id)),
            _ => assert_eq!(open.remove(&track), Some(alert.id.clone()), "{alert:?}"),
        }
        assert_eq!(ids[&alert.id], alert.onset);
        assert!(alert.value.is_finite() && !alert.text.is_empty());
    }
}

/// A process with everything that it and Kafka know.
struct Process {
    rules: Arc<RuleSet>,
    engine: Engine,
    /// The state topic.
    saved: HashMap<DeviceId, Vec<u8>>,
    /// From which reading on the readings topic must be read again.
    mark: usize,
    readings: Vec<Made>,
    published: Vec<Raised>,
}

impl Process {
    fn new(rules: Arc<RuleSet>) -> Self {
        let engine = Engine::new(Arc::clone(&rules), 3);
        Self { rules, engine, saved: HashMap::new(), mark: 0, readings: Vec::new(), published: Vec::new() }
    }

    /// A transaction: alerts together with the state that has raised them.
    fn commit(&mut self, out: Vec<Raised>) {
        for raised in &out {
            self.save(raised.device);
        }
        self.published.extend(out);
    }

    fn save(&mut self, device: DeviceId) {
        match self.engine.snapshot(device) {
            Some(bytes) => drop(self.saved.insert(device, bytes)),
            None => drop(self.saved.remove(&device)),
        }
        self.engine.mark_clean(device);
    }

    fn step(&mut self, step: &Step) {
        let mut out = Vec::new();
        match step {
            Step::Reading(made) => {
                self.readings.push(made.clone());
                made.apply(&mut self.engine, &mut out);
            }
            Step::Advance(now_ms) => self.engine.advance(*now_ms, &mut out),
            Step::Checkpoint => {
                let mut dirty = Vec::new();
                loop {
                    dirty.clear();
                    self.engine.take_dirty(2, &mut dirty);
                    dirty.iter().for_each(|device| self.save(*device));
                    if dirty.len() < 2 {
                        break;
                    }
                }
                self.mark = self.readings.len();
            }
            Step::Crash => {
                let before = self.engine.firing();
                self.engine = Engine::new(Arc::clone(&self.rules), 3);
                for (device, bytes) in &self.saved {
                    self.engine.restore(*device, bytes, &mut out).unwrap();
                    assert_eq!(
                        self.engine.snapshot(*device).as_ref(),
                        Some(bytes),
                        "what is restored is the same"
                    );
                }
                for made in &self.readings[self.mark..] {
                    made.apply(&mut self.engine, &mut out);
                }
                assert_eq!(out, [], "nothing is raised twice");
                assert_eq!(self.engine.firing(), before);
            }
        }
        self.commit(out);
    }
}

/// More cases than usual; `PROPTEST_CASES` sets another number.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 1_000 };
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..default }
}

fn extreme() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        Just(i64::MIN),
        Just(i64::MAX),
        Just(0),
        1_790_000_000_000i64..1_790_000_100_000
    ]
}

/// The partition's time of receipt, once reached, is not gone behind by readings: their records' timestamps may go back among
/// themselves, but time that was announced has passed.
fn not_behind_an_advance(mut steps: Vec<Step>) -> Vec<Step> {
    let mut reached_ms = i64::MIN;
    for step in &mut steps {
        match step {
            Step::Reading(made) => made.received_ms = made.received_ms.max(reached_ms),
            Step::Advance(now_ms) => reached_ms = reached_ms.max(*now_ms),
            Step::Checkpoint | Step::Crash => {}
        }
    }
    steps
}

fn compare(rules: &[Rule], steps: &[Step]) -> Result<(), TestCaseError> {
    let mut engine = Engine::new(rule_set(rules), 3);
    let mut reference = Reference::new(rules);
    let mut all = Vec::new();
    for step in steps {
        let mut out = Vec::new();
        let expected = match step {
            Step::Reading(made) => {
                made.apply(&mut engine, &mut out);
                reference.reading(made)
            }
            Step::Advance(now_ms) => {
                engine.advance(*now_ms, &mut out);
                reference.advance(*now_ms)
            }
            Step::Checkpoint | Step::Crash => continue,
        };
        prop_assert_eq!(by_device(records(&out)), by_device(expected), "at {:?}", step);
        all.extend(out);
    }
    check_episodes(&all);
    let firing =
        all.iter().filter(|raised| raised.alert.repeat == 0).map(|raised| raised.alert.state() as i64);
    let open: i64 = firing.map(|state| if state == 1 { 1 } else { -1 }).sum();
    prop_assert_eq!(engine.firing() as i64, open);
    Ok(())
}

/// Each kind with each modifier alone and with all of them: what chance would have to find is here for certain.
#[test]
fn every_kind_with_every_modifier_is_the_reference() {
    let kinds = [
        Kind::Threshold { above: true, limit: 1.0, clear: -1.0 },
        Kind::Sustained { above: true, limit: 0.0, count: 3, window: 30_000 },
        Kind::LowBattery { warning: None, critical: None, hysteresis: 2 },
        Kind::For { above: true, limit: -3.0, hold: 3_000, gap: Some(30_000) },
        Kind::NOfM { above: false, limit: 0.0, n: 2, m: 4 },
        Kind::Rate { above: true, limit: 1.0, per: 10_000, over: 10_000 },
        Kind::NoData { silence: 10_000, any: true },
    ];
    let mut runner = TestRunner::new_with_rng(config(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    for kind in kinds {
        for modifiers in 0..16u8 {
            let has = |bit: u8| modifiers & (1 << bit) != 0;
            let rule = Rule {
                name: "r".to_owned(),
                kind: kind.clone(),
                metric: "temperature".to_owned(),
                keep: if has(0) { 5_000 } else { 0 },
                flapping: has(1).then_some((2, 30_000)),
                repeat: has(2).then_some(5_000),
                late: if has(3) { 10_000 } else { 0 },
                devices: None,
            };
            let (mut told, mut firing) = (0, 0);
            for _ in 0..10 {
                let steps = steps(120).new_tree(&mut runner).unwrap().current();
                compare(std::slice::from_ref(&rule), &steps)
                    .unwrap_or_else(|error| panic!("{rule:?}: {error}"));
                let mut process = Process::new(rule_set(std::slice::from_ref(&rule)));
                not_behind_an_advance(steps).iter().for_each(|step| process.step(step));
                told += process.published.len();
                firing += process.published.iter().filter(|raised| raised.alert.state() as i32 == 1).count();
            }
            assert!(firing > 0 && told > firing, "{rule:?} has raised and resolved nothing");
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_engine_is_the_reference(rules in rules(), steps in steps(70)) {
        compare(&rules, &steps)?;
    }

    #[test]
    fn restarts_at_any_point_change_nothing(rules in rules(), steps in steps(70)) {
        let set = rule_set(&rules);
        let steps = not_behind_an_advance(steps);
        let (mut plain, mut crashing) = (Process::new(Arc::clone(&set)), Process::new(set));
        for step in &steps {
            if !matches!(step, Step::Crash | Step::Checkpoint) {
                plain.step(step);
            }
            crashing.step(step);
            prop_assert_eq!(plain.published.len(), crashing.published.len(), "at {:?}", step);
        }
        let by_device = |raised: Vec<Raised>| {
            let mut devices: BTreeMap<DeviceId, Vec<Raised>> = BTreeMap::new();
            raised.into_iter().for_each(|raised| devices.entry(raised.device).or_default().push(raised));
            devices
        };
        let reached = steps.iter().filter_map(|step| match step {
            Step::Reading(made) => Some(made.received_ms),
            Step::Advance(now_ms) => Some(*now_ms),
            Step::Checkpoint | Step::Crash => None,
        });
        let last = Step::Advance(reached.max().unwrap_or(0));
        plain.step(&last);
        crashing.step(&last);
        prop_assert_eq!(by_device(plain.published), by_device(crashing.published));
        prop_assert_eq!(plain.engine.firing(), crashing.engine.firing());
        for device in 0..3 {
            let device = device_id(device);
            prop_assert_eq!(plain.engine.snapshot(device), crashing.engine.snapshot(device));
        }
    }

    #[test]
    fn extreme_times_do_no_harm(
        rules in rules(),
        times in proptest::collection::vec((extreme(), extreme(), any::<u64>(), -5i8..6), 1..30),
    ) {
        let set = rule_set(&rules);
        let (mut engine, mut out) = (Engine::new(Arc::clone(&set), 0), Vec::new());
        for (index, (time_ms, received_ms, sequence, value)) in times.into_iter().enumerate() {
            let made = Made {
                device: 0,
                offset: index as i64,
                received_ms,
                time_ms,
                sequence,
                temperature: Some(f32::from(value) * f32::MAX / 6.0),
                battery: Some(i32::from(value)),
                vibration: Some(f64::from(value) * f64::MAX / 6.0),
            };
            made.apply(&mut engine, &mut out);
            engine.advance(received_ms, &mut out);
            if let Some(bytes) = engine.snapshot(device_id(0)) {
                let mut other = Engine::new(Arc::clone(&set), 0);
                other.restore(device_id(0), &bytes, &mut out).unwrap();
                prop_assert_eq!(other.snapshot(device_id(0)), Some(bytes));
            }
        }
        prop_assert!(out.iter().all(|raised| raised.alert.value.is_finite()));
    }

    #[test]
    fn no_data_does_not_depend_on_when_it_is_looked_at(rules in rules(), steps in steps(70)) {
        let rules: Vec<Rule> = rules.into_iter().map(|rule| Rule { repeat: None, ..rule }).collect();
        let set = rule_set(&rules);
        let (mut often, mut never) = (Engine::new(Arc::clone(&set), 3), Engine::new(set, 3));
        let (mut out_often, mut out_never) = (Vec::new(), Vec::new());
        let mut clock_ms = i64::MIN;
        for step in &not_behind_an_advance(steps) {
            match step {
                Step::Reading(made) => {
                    clock_ms = clock_ms.max(made.received_ms);
                    made.apply(&mut often, &mut out_often);
                    made.apply(&mut never, &mut out_never);
                }
                Step::Advance(now_ms) => {
                    clock_ms = clock_ms.max(*now_ms);
                    often.advance(clock_ms, &mut out_often);
                }
                Step::Checkpoint | Step::Crash => {}
            }
        }
        often.advance(clock_ms, &mut out_often);
        never.advance(clock_ms, &mut out_never);
        let by_rule = |raised: &[Raised]| {
            let mut rules: BTreeMap<_, Vec<Record>> = BTreeMap::new();
            for record in records(raised) {
                let key = (record.device.clone(), record.rule.clone(), record.severity as i32);
                rules.entry(key).or_default().push(record);
            }
            rules
        };
        prop_assert_eq!(by_rule(&out_often), by_rule(&out_never));
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(
        rules in rules(),
        steps in steps(40),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let set = rule_set(&rules);
        let mut process = Process::new(Arc::clone(&set));
        steps.iter().filter(|step| !matches!(step, Step::Crash)).for_each(|step| process.step(step));
        let mut changed = process.engine.snapshot(device_id(0)).unwrap_or_default();
        for (index, byte) in flips {
            if !changed.is_empty() {
                let at = index.index(changed.len());
                changed[at] = byte;
            }
        }
        let mut versioned = vec![1];
        versioned.extend(&bytes);
        for garbage in [bytes, versioned, changed] {
            let mut engine = Engine::new(Arc::clone(&set), 0);
            let mut out = Vec::new();
            if engine.restore(device_id(0), &garbage, &mut out).is_ok() {
                for step in &steps {
                    match step {
                        Step::Reading(made) => {
                            let far = Made { offset: i64::MAX, ..made.clone() };
                            far.apply(&mut engine, &mut out);
                        }
                        Step::Advance(now_ms) => engine.advance(*now_ms, &mut out),
                        Step::Checkpoint | Step::Crash => {}
                    }
                }
            }
        }
    }
}

proptest! {
    // Long streams, and the reference is slow.
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn more_readings_than_wait_for_earlier_ones_are_the_reference(
        rules in proptest::collection::vec(rule_of(kinds_with_a_tail()), 1..3).prop_map(named),
        steps in busy_steps(),
    ) {
        let rules: Vec<Rule> = rules.into_iter().map(|rule| Rule { late: 180_000, devices: None, ..rule }).collect();
        compare(&rules, &steps)?;
    }
}
