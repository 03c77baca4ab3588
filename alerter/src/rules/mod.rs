//! The rules file: what it may say, and what it means. Reads files, decides nothing about readings.

mod compile;
mod duration;
mod error;
mod fields;
mod group;
mod metric;
mod parse;
mod summary;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use penstock_proto::DeviceId;
use penstock_proto::v1::AlertSeverity;

use crate::text::Template;

pub(crate) use compile::{Modifiers, Test, Track};
pub(crate) use duration::format as format_duration;
pub use error::{Problem, RulesError};
pub use metric::MetricName;
pub(crate) use metric::extract;
pub use summary::{RuleSummary, Summary};

/// Bytes of a rules file at most.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// Rules in a file at most.
pub const RULES_MAX: usize = 1_000;
/// Readings that a `sustained` rule counts at most.
pub(crate) const COUNT_MAX: usize = 1_000;
/// Readings that an `n-of-m` rule looks at at most.
pub(crate) const M_MAX: usize = 256;
/// Flips that `flapping` allows at most.
pub(crate) const FLIPS_MAX: usize = 100;
/// Readings that wait for earlier ones at most, in rules of the kinds `for` and `rate-of-change` with `on-late`.
pub(crate) const TAIL_MAX: usize = 128;
/// Support points that a `rate-of-change` rule spreads over its time.
pub(crate) const POINTS: i64 = 16;

/// On which side of a limit a value meets the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Above,
    Below,
}

impl Side {
    /// Whether `value` lies strictly beyond `limit`.
    pub(crate) fn is_met(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Above => value > limit,
            Self::Below => value < limit,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

/// What a rule looks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Threshold { side: Side, limit: f64, clear: f64 },
    Sustained { side: Side, limit: f64, count: usize, window_ms: i64 },
    LowBattery { warning: Option<f64>, critical: Option<f64>, hysteresis: f64 },
    For { side: Side, limit: f64, hold_ms: i64, gap_ms: i64 },
    NOfM { side: Side, limit: f64, n: usize, m: usize },
    Rate { side: Side, limit: f64, per_ms: i64, over_ms: i64 },
    NoData { silence_ms: i64 },
}

/// Which devices a rule is about.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    All,
    Devices(Arc<HashSet<DeviceId>>),
    /// The file's name as it was written.
    Group(Box<str>, Arc<HashSet<DeviceId>>),
}

impl Scope {
    #[inline]
    pub(crate) fn contains(&self, device: &DeviceId) -> bool {
        match self {
            Self::All => true,
            Self::Devices(devices) | Self::Group(_, devices) => devices.contains(device),
        }
    }
}

/// One rule of the file.
#[derive(Clone, Debug)]
pub struct Rule {
    name: Box<str>,
    line: usize,
    kind: Kind,
    /// `None`: any reading counts (`no-data` only).
    metric: Option<MetricName>,
    scope: Scope,
    severity: AlertSeverity,
    text: Template,
    modifiers: Modifiers,
}

impl Rule {
    /// The rule's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line of the file on which the rule begins, counted from 1.
    pub const fn line(&self) -> usize {
        self.line
    }

    pub(crate) const fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) const fn text(&self) -> &Template {
        &self.text
    }

    /// The rule's kind as it is written in the file.
    pub const fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Threshold { .. } => "threshold",
            Kind::Sustained { .. } => "sustained",
            Kind::LowBattery { .. } => "low-battery",
            Kind::For { .. } => "for",
            Kind::NOfM { .. } => "n-of-m",
            Kind::Rate { .. } => "rate-of-change",
            Kind::NoData { .. } => "no-data",
        }
    }

    /// The metric it reads; `None` where any reading counts.
    pub const fn metric(&self) -> Option<&MetricName> {
        self.metric.as_ref()
    }

    /// `info`, `warning` or `critical`; for `low-battery` the severities of its levels.
    pub fn severity(&self) -> &'static str {
        match self.kind {
            Kind::LowBattery { warning: Some(_), critical: Some(_), .. } => "warning, critical",
            Kind::LowBattery { warning: None, .. } => "critical",
            Kind::LowBattery { critical: None, .. } => "warning",
            _ => severity_name(self.severity),
        }
    }

    /// Which devices it is about, for people.
    pub fn devices(&self) -> String {
        match &self.scope {
            Scope::All => "all".to_owned(),
            Scope::Devices(devices) => format!("{} listed", devices.len()),
            Scope::Group(file, devices) => format!("{} in {file}", devices.len()),
        }
    }

    /// What it looks for, for people, such as `5 readings above 80 within 5m`.
    pub fn condition(&self) -> String {
        use crate::text::number;
        let duration = format_duration;
        match &self.kind {
            Kind::Threshold { side, limit, clear } if clear == limit => {
                format!("{} {}", side.word(), number(*limit))
            }
            Kind::Threshold { side, limit, clear } => {
                format!("{} {} until {}", side.word(), number(*limit), number(*clear))
            }
            Kind::Sustained { side, limit, count, window_ms } => {
                format!("{count} readings {} {} within {}", side.word(), number(*limit), duration(*window_ms))
            }
            Kind::LowBattery { warning, critical, hysteresis } => {
                let levels: Vec<String> = [("warning", warning), ("critical", critical)]
                    .into_iter()
                    .filter_map(|(name, level)| level.map(|level| format!("{name} below {}", number(level))))
                    .collect();
                match *hysteresis == 0.0 {
                    true => levels.join(", "),
                    false => format!("{}, hysteresis {}", levels.join(", "), number(*hysteresis)),
                }
            }
            Kind::For { side, limit, hold_ms, gap_ms } => {
                let (hold, gap) = (duration(*hold_ms), duration(*gap_ms));
                format!("{} {} for {hold}, gaps up to {gap}", side.word(), number(*limit))
            }
            Kind::NOfM { side, limit, n, m } => {
                format!("{n} of the last {m} readings {} {}", side.word(), number(*limit))
            }
            Kind::Rate { side, limit, per_ms, over_ms } => {
                let (per, over) = (duration(*per_ms), duration(*over_ms));
                format!("change {} {} per {per}, measured over {over}", side.word(), number(*limit))
            }
            Kind::NoData { silence_ms } => format!("silent for {}", duration(*silence_ms)),
        }
    }

    /// Its modifiers as they would be written, for people; empty without any.
    pub fn modifiers(&self) -> String {
        self.modifiers.to_string()
    }
}

/// Rules that can be applied: read, checked, immutable.
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    metrics: Vec<MetricName>,
    tracks: Vec<Track>,
}

/// The fleet's default rules.
const DEFAULT: &str = include_str!("default.toml");

impl RuleSet {
    /// Reads a rules file and the device groups that it names, relative to its folder.
    ///
    /// # Errors
    /// Everything that is wrong with them, with file and line.
    pub fn load(path: &Path) -> Result<Self, RulesError> {
        let name = path.display().to_string();
        let unreadable = |message: String| {
            let mut problems = RulesError::default();
            problems.push(&name, 0, message);
            problems
        };
        let bytes = group::read_limited(path, FILE_BYTES_MAX)
            .map_err(|why| unreadable(format!("cannot be read ({why}); name a readable rules file")))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| unreadable("is not UTF-8 text; save it as UTF-8".to_owned()))?;
        Self::parse(&name, &text, path.parent().unwrap_or(Path::new("")))
    }

    /// The rules that `alerts.rules` names; those that are built in where it is empty.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn configured(path: &Path) -> Result<Self, RulesError> {
        if path.as_os_str().is_empty() { Ok(Self::default_rules()) } else { Self::load(path) }
    }

    /// Reads the text of a rules file called `name`; device groups are looked for in `dir`.
    ///
    /// # Errors
    /// Everything that is wrong with it, with file and line.
    pub fn parse(name: &str, text: &str, dir: &Path) -> Result<Self, RulesError> {
        let rules = parse::rules(name, text, dir)?;
        let set = Self::compile(rules);
        let bytes: usize = set.tracks.iter().map(Track::state_bytes_max).sum();
        if bytes > compile::STATE_BYTES_MAX {
            let mut problems = RulesError::default();
            let message = format!(
                "these rules may need {bytes} bytes of state a device, at most {} are possible; use fewer rules with a \
                 large count, m, flips or on-late",
                compile::STATE_BYTES_MAX
            );
            problems.push(name, 0, message);
            return Err(problems);
        }
        Ok(set)
    }

    /// Five readings over 80 degrees Celsius within five minutes, and low batteries: what applies where no file is named.
    pub fn default_rules() -> Self {
        // A test reads it; without rules nothing would be raised.
        Self::parse("default rules", DEFAULT, Path::new("")).unwrap_or_else(|_| Self::compile(Vec::new()))
    }

    /// The text of the default rules.
    pub const fn default_text() -> &'static str {
        DEFAULT
    }

    /// The rules in the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The device groups that rules name, as they are written: relative to the rules file's folder.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| match rule.scope() {
            Scope::Group(file, _) => Some(&**file),
            Scope::All | Scope::Devices(_) => None,
        })
    }

    /// The metrics that are read by any rule, each once.
    pub fn metrics(&self) -> &[MetricName] {
        &self.metrics
    }

    pub(crate) fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    pub(crate) fn rule(&self, track: &Track) -> &Rule {
        &self.rules[track.rule]
    }
}

/// A severity as it is written in rules files.
pub(crate) const fn severity_name(severity: AlertSeverity) -> &'static str {
    match severity {
        AlertSeverity::Unspecified => "unspecified",
        AlertSeverity::Info => "info",
        AlertSeverity::Warning => "warning",
        AlertSeverity::Critical => "critical",
    }
}

#[cfg(test)]
mod tests;
