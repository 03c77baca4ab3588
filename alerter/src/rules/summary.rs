//! What a rules file says, for people and as JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::{Rule, RuleSet, Track};
use crate::table::columns;

/// A set of rules in few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The rules in the order of the file.
    pub rules: Vec<RuleSummary>,
    /// Bytes of state that a device may need at most.
    pub state_bytes_max: usize,
}

/// A rule in few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleSummary {
    /// Its name.
    pub name: String,
    /// The line on which it begins.
    pub line: usize,
    /// Its kind.
    pub kind: &'static str,
    /// What it reads; `None`: any reading.
    pub metric: Option<String>,
    /// What it looks for.
    pub condition: String,
    /// Its severities.
    pub severity: &'static str,
    /// The devices it is about.
    pub devices: String,
    /// Its modifiers; empty without any.
    pub modifiers: String,
}

impl RuleSummary {
    fn of(rule: &Rule) -> Self {
        Self {
            name: rule.name().to_owned(),
            line: rule.line(),
            kind: rule.kind(),
            metric: rule.metric().map(ToString::to_string),
            condition: rule.condition(),
            severity: rule.severity(),
            devices: rule.devices(),
            modifiers: rule.modifiers(),
        }
    }
}

impl Summary {
    /// The rules in few words.
    pub fn of(rules: &RuleSet) -> Self {
        Self {
            rules: rules.rules().iter().map(RuleSummary::of).collect(),
            state_bytes_max: rules.tracks().iter().map(Track::state_bytes_max).sum(),
        }
    }

    /// Writes a table, for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let head =
            ["RULE", "KIND", "METRIC", "CONDITION", "SEVERITY", "DEVICES", "MODIFIERS"].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(self.rules.iter().map(|rule| {
            vec![
                rule.name.clone(),
                rule.kind.to_owned(),
                rule.metric.clone().unwrap_or_else(|| "any".to_owned()),
                rule.condition.clone(),
                rule.severity.to_owned(),
                rule.devices.clone(),
                rule.modifiers.clone(),
            ]
        }));
        for line in columns(&rows) {
            writeln!(out, "{line}")?;
        }
        let count = self.rules.len();
        let rules = if count == 1 { "rule is" } else { "rules are" };
        writeln!(out, "{count} {rules} good; at most {} bytes of state a device", self.state_bytes_max)
    }
}
