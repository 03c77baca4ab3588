//! From rules to tracks: what the engine keeps state of. A rule is one track; `low-battery` is one for each level, because
//! each level has episodes of its own.

use std::fmt;

use penstock_proto::v1::AlertSeverity;
use sha2::{Digest, Sha256};

use super::{Kind, MetricName, POINTS, Rule, RuleSet, Side, TAIL_MAX, format_duration};

/// Bytes of state a device that a set of rules may need at most.
pub(crate) const STATE_BYTES_MAX: usize = 512 << 10;

/// What a track's condition is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    Level { side: Side, limit: f64, clear: f64 },
    Window { side: Side, limit: f64, count: usize, window_ms: i64 },
    Last { side: Side, limit: f64, n: usize, m: usize },
    Run { side: Side, limit: f64, hold_ms: i64, gap_ms: i64 },
    Slope { side: Side, limit: f64, per_ms: i64, over_ms: i64 },
    Silence { silence_ms: i64 },
}

/// `flapping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flapping {
    pub(crate) flips: usize,
    pub(crate) window_ms: i64,
}

/// What shapes episodes, whatever the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modifiers {
    /// 0: episodes end with the condition.
    pub(crate) keep_ms: i64,
    pub(crate) flapping: Option<Flapping>,
    pub(crate) repeat_ms: Option<i64>,
    /// How much earlier than the newest reading a reading may be.
    pub(crate) late_ms: i64,
}

impl fmt::Display for Modifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.keep_ms > 0 {
            parts.push(format!("keep-firing {}", format_duration(self.keep_ms)));
        }
        if let Some(flapping) = self.flapping {
            parts.push(format!(
                "flapping {} flips in {}",
                flapping.flips,
                format_duration(flapping.window_ms)
            ));
        }
        if let Some(repeat_ms) = self.repeat_ms {
            parts.push(format!("repeat-every {}", format_duration(repeat_ms)));
        }
        if self.late_ms > 0 {
            parts.push(format!("on-late allow {}", format_duration(self.late_ms)));
        }
        f.write_str(&parts.join(", "))
    }
}

/// What the engine keeps state of.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    /// Index of its rule.
    pub(crate) rule: usize,
    /// Index of its metric; `None`: any reading.
    pub(crate) metric: Option<usize>,
    pub(crate) test: Test,
    pub(crate) modifiers: Modifiers,
    pub(crate) severity: AlertSeverity,
    pub(crate) low_battery: bool,
    /// In alerts.
    pub(crate) threshold: f64,
    /// Values come in single precision.
    pub(crate) is_single: bool,
    /// Tells tracks apart whose states cannot be exchanged: the same in any set of rules that means the same.
    pub(crate) fingerprint: u64,
}

impl Track {
    /// A bound of the bytes of its state.
    pub(crate) fn state_bytes_max(&self) -> usize {
        const KEY: usize = 20;
        let tail = if self.modifiers.late_ms > 0 { TAIL_MAX * (KEY + 9) } else { 0 };
        let condition = match self.test {
            Test::Level { .. } | Test::Silence { .. } => 2 * KEY,
            Test::Window { count, .. } => count * KEY,
            Test::Last { m, .. } => m * (KEY + 1),
            Test::Run { .. } => 3 * KEY + tail,
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "16")]
            Test::Slope { .. } => (POINTS as usize + 3) * (KEY + 9) + tail,
        };
        let flips = self.modifiers.flapping.map_or(0, |flapping| (flapping.flips + 1) * 10);
        // Identity of an episode: name, severity, threshold; times.
        condition + flips + 256
    }

    pub(crate) const fn is_silence(&self) -> bool {
        matches!(self.test, Test::Silence { .. })
    }
}

impl RuleSet {
    pub(super) fn compile(rules: Vec<Rule>) -> Self {
        let mut metrics: Vec<MetricName> = rules.iter().filter_map(|rule| rule.metric.clone()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        let tracks =
            rules.iter().enumerate().flat_map(|(index, rule)| tracks(index, rule, &metrics)).collect();
        Self { rules, metrics, tracks }
    }
}

fn tracks(index: usize, rule: &Rule, metrics: &[MetricName]) -> Vec<Track> {
    let is_single = rule.metric.as_ref().is_some_and(MetricName::is_single);
    let limit_of = |limit: f64| if is_single { single(limit) } else { limit };
    let track = |test: Test, severity: AlertSeverity, level: &'static str, threshold: f64| {
        let fingerprint = fingerprint(rule, &test, severity, level);
        Track {
            rule: index,
            metric: rule.metric.as_ref().and_then(|metric| metrics.iter().position(|known| known == metric)),
            test,
            modifiers: rule.modifiers,
            severity,
            low_battery: matches!(rule.kind, Kind::LowBattery { .. }),
            threshold,
            is_single,
            fingerprint,
        }
    };
    let severity = rule.severity;
    let one = |test: Test, threshold: f64| vec![track(test, severity, "", threshold)];
    match rule.kind {
        Kind::Threshold { side, limit, clear } => {
            one(Test::Level { side, limit: limit_of(limit), clear: limit_of(clear) }, limit)
        }
        Kind::Sustained { side, limit, count, window_ms } => {
            one(Test::Window { side, limit: limit_of(limit), count, window_ms }, limit)
        }
        Kind::For { side, limit, hold_ms, gap_ms } => {
            one(Test::Run { side, limit: limit_of(limit), hold_ms, gap_ms }, limit)
        }
        Kind::NOfM { side, limit, n, m } => one(Test::Last { side, limit: limit_of(limit), n, m }, limit),
        Kind::Rate { side, limit, per_ms, over_ms } => {
            one(Test::Slope { side, limit, per_ms, over_ms }, limit)
        }
        #[allow(clippy::cast_precision_loss, reason = "at most 366 days")]
        Kind::NoData { silence_ms } => one(Test::Silence { silence_ms }, silence_ms as f64 / 1_000.0),
        Kind::LowBattery { warning, critical, hysteresis } => {
            let levels = [
                (warning, AlertSeverity::Warning, "warning"),
                (critical, AlertSeverity::Critical, "critical"),
            ];
            let level = |(limit, severity, name): (Option<f64>, AlertSeverity, &'static str)| {
                let limit = limit?;
                let clear = limit_of(limit + hysteresis);
                let test = Test::Level { side: Side::Below, limit: limit_of(limit), clear };
                Some(track(test, severity, name, limit))
            };
            levels.into_iter().filter_map(level).collect()
        }
    }
}

/// The number that a reading in single precision of this value has.
#[allow(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn single(limit: f64) -> f64 {
    f64::from(limit as f32)
}

/// Text and scope have no part in it: who is meant and what is said does not change what state means.
fn fingerprint(rule: &Rule, test: &Test, severity: AlertSeverity, level: &str) -> u64 {
    let metric = rule.metric.as_ref().map(ToString::to_string);
    let meaning = format!("1 {:?} {metric:?} {test:?} {:?} {severity:?} {level}", rule.name, rule.modifiers);
    let digest = Sha256::digest(meaning.as_bytes());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
