//! What the tests of the engine share: random rules and streams, and the plain reference implementation.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

pub(crate) mod reference;

use std::path::Path;
use std::sync::Arc;

use penstock_alerter::{Engine, Raised, Reading, RuleSet};
use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, ReadingView};
use proptest::prelude::*;
use prost::Message as _;

use reference::{Kind, Rule};

/// The epoch of all streams: some moment.
pub(crate) const EPOCH_MS: i64 = 1_790_000_000_000;

/// A reading as a test makes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) device: u8,
    pub(crate) offset: i64,
    pub(crate) received_ms: i64,
    pub(crate) time_ms: i64,
    pub(crate) sequence: u64,
    pub(crate) temperature: Option<f32>,
    pub(crate) battery: Option<i32>,
    pub(crate) vibration: Option<f64>,
}

pub(crate) fn device_id(device: u8) -> DeviceId {
    let mut bytes = [7; 16];
    bytes[15] = device;
    DeviceId::from_bytes(bytes)
}

impl Made {
    pub(crate) fn encode(&self) -> Vec<u8> {
        SensorReading {
            timestamp: self.time_ms,
            sequence: self.sequence,
            temperature: self.temperature,
            battery_level: self.battery,
            metrics: self.vibration.map(|value| ("vib".to_owned(), value)).into_iter().collect(),
            ..SensorReading::default()
        }
        .encode_to_vec()
    }

    pub(crate) fn apply(&self, engine: &mut Engine, out: &mut Vec<Raised>) {
        let bytes = self.encode();
        let view = ReadingView::decode(&bytes).unwrap();
        let reading = Reading {
            device: device_id(self.device),
            offset: self.offset,
            received_ms: self.received_ms,
            view: &view,
        };
        engine.reading(&reading, out);
    }
}

/// A step of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Reading(Made),
    Advance(i64),
    Checkpoint,
    Crash,
}

pub(crate) fn rule_set(rules: &[Rule]) -> Arc<RuleSet> {
    let text: String = rules.iter().map(Rule::to_toml).collect();
    Arc::new(
        RuleSet::parse("test.toml", &text, Path::new("")).unwrap_or_else(|error| panic!("{error}\n{text}")),
    )
}

fn millis() -> impl Strategy<Value = i64> {
    prop_oneof![Just(1_000i64), Just(5_000), Just(10_000), Just(30_000), Just(60_000), Just(180_000)]
}

fn kind() -> impl Strategy<Value = Kind> {
    let limit = -2..3i32;
    prop_oneof![
        (any::<bool>(), limit.clone(), 0..4i32).prop_map(|(above, limit, band)| {
            let clear = if above { limit - band } else { limit + band };
            Kind::Threshold { above, limit: f64::from(limit), clear: f64::from(clear) }
        }),
        (any::<bool>(), limit.clone(), 1..5usize, millis()).prop_map(|(above, limit, count, window)| {
            Kind::Sustained { above, limit: f64::from(limit), count, window }
        }),
        (prop_oneof![Just(None), Just(Some(10))], prop_oneof![Just(None), Just(Some(5))], 0..4i32)
            .prop_map(|(warning, critical, hysteresis)| Kind::LowBattery { warning, critical, hysteresis }),
        (any::<bool>(), limit.clone(), millis(), proptest::option::of(millis()))
            .prop_map(|(above, limit, hold, gap)| Kind::For { above, limit: f64::from(limit), hold, gap }),
        (any::<bool>(), limit.clone(), 1..5usize, 0..4usize).prop_map(|(above, limit, n, more)| Kind::NOfM {
            above,
            limit: f64::from(limit),
            n,
            m: n + more
        }),
        (any::<bool>(), limit, millis(), millis()).prop_map(|(above, limit, per, over)| Kind::Rate {
            above,
            limit: f64::from(limit),
            per,
            over
        }),
        (millis(), any::<bool>()).prop_map(|(silence, any)| Kind::NoData { silence, any }),
    ]
}

/// A rule of any kind with any modifiers.
pub(crate) fn any_rule() -> impl Strategy<Value = Rule> {
    rule_of(kind())
}

pub(crate) fn rule_of(kind: impl Strategy<Value = Kind>) -> impl Strategy<Value = Rule> {
    let metric = prop_oneof![Just("temperature"), Just("metrics.vib")];
    let sometimes = |strategy: BoxedStrategy<i64>| proptest::option::weighted(0.35, strategy);
    (
        kind,
        metric,
        sometimes(millis().boxed()),
        proptest::option::weighted(0.35, (1..5usize, millis())),
        sometimes(millis().boxed()),
        proptest::option::weighted(0.5, millis()),
        proptest::option::weighted(0.2, Just(vec![0u8, 1])),
    )
        .prop_map(|(kind, metric, keep, flapping, repeat, late, devices)| Rule {
            name: String::new(),
            kind,
            metric: metric.to_owned(),
            keep: keep.unwrap_or(0),
            flapping,
            repeat,
            late: late.unwrap_or(0),
            devices,
        })
}

/// Several rules, each with a name of its own.
pub(crate) fn rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(any_rule(), 1..6).prop_map(named)
}

pub(crate) fn named(mut rules: Vec<Rule>) -> Vec<Rule> {
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.name = format!("r{index}");
    }
    rules
}

/// What is drawn for a step; times come from what was drawn before.
type Draw = (u8, u8, i64, i64, i8, Option<i8>, u8, bool);

fn steps_of(draws: Vec<Draw>, backwards: bool) -> Vec<Step> {
    let (mut clock_ms, mut offset, mut sequence) = (EPOCH_MS, 0i64, 0u64);
    let mut last: Vec<Made> = Vec::new();
    let mut steps = Vec::new();
    for (what, device, passed_ms, late_ms, value, battery, shape, counts) in draws {
        clock_ms += passed_ms;
        match what {
            0..=6 => steps.push(Step::Advance(clock_ms)),
            7..=11 => steps.push(Step::Checkpoint),
            12..=15 => steps.push(Step::Crash),
            _ => {
                offset += 1 + i64::from(shape % 3);
                let again =
                    (shape >= 230).then(|| last.iter().rev().find(|made| made.device == device)).flatten();
                sequence += 1;
                let received_ms = if backwards && shape % 7 == 0 { clock_ms - late_ms } else { clock_ms };
                let made = match again {
                    Some(made) => Made { offset, received_ms, ..made.clone() },
                    None => Made {
                        device,
                        offset,
                        received_ms,
                        time_ms: clock_ms - late_ms,
                        sequence: if counts { sequence } else { 0 },
                        temperature: (shape % 10 != 0)
                            .then_some(f32::from(value) + 0.1 * f32::from(shape % 2)),
                        battery: battery.map(i32::from),
                        vibration: (shape % 4 != 0).then_some(f64::from(value) * 1.1),
                    },
                };
                last.push(made.clone());
                steps.push(Step::Reading(made));
            }
        }
    }
    steps
}

/// Readings of several devices, out of order, late, doubled and with gaps, between other steps.
pub(crate) fn steps(len: usize) -> impl Strategy<Value = Vec<Step>> {
    let passed = prop_oneof![
        6 => Just(1_000i64), 3 => Just(0), 3 => 1..9_000i64, 2 => Just(20_000), 1 => Just(61_000), 1 => Just(400_000)
    ];
    let late = prop_oneof![12 => Just(0i64), 3 => 1..6_000i64, 2 => 1..70_000i64, 1 => Just(300_000)];
    let draw = (
        0u8..100,
        0u8..3,
        passed,
        late,
        -5i8..6,
        proptest::option::of(0i8..20),
        any::<u8>(),
        proptest::bool::weighted(0.8),
    );
    (proptest::collection::vec(draw, 1..len), any::<bool>())
        .prop_map(|(draws, backwards)| steps_of(draws, backwards))
}

/// The kinds that keep readings until no earlier one can come.
pub(crate) fn kinds_with_a_tail() -> impl Strategy<Value = Kind> {
    kind().prop_filter("keeps readings", |kind| matches!(kind, Kind::For { .. } | Kind::Rate { .. }))
}

/// One device that sends more readings within the allowed lateness than are kept.
pub(crate) fn busy_steps() -> impl Strategy<Value = Vec<Step>> {
    let draw = (300i64..1_500, prop_oneof![3 => Just(0i64), 1 => 0..150_000i64], -5i8..6);
    proptest::collection::vec(draw, 150..260).prop_map(|draws| {
        let draws =
            draws.into_iter().map(|(passed, late, value)| (50, 0, passed, late, value, None, 1, true));
        steps_of(draws.collect(), false)
    })
}
