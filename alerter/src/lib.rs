//! Rules over sensor readings, and the alerts they raise.
//!
//! [`rules`] reads the rules file, [`engine`] applies rules to readings, [`rehearsal`] shows what rules would have raised.
//! These never do I/O besides reading the files they are given, and never look at a clock: what comes out depends on
//! the rules, a device's state and the reading alone. docs/RULES.md says what every kind and modifier means. [`run`] is the
//! role around them: Kafka in, Kafka out.

pub mod audit;
pub mod engine;
mod metrics;
pub mod rehearsal;
pub mod rules;
mod stage;
mod table;
mod text;

pub use engine::{Counts, Engine, Raised, Reading, SnapshotError};
pub use metrics::Metrics;
pub use rehearsal::Rehearsal;
pub use rules::{MetricName, Rule, RuleSet, RulesError};
pub use stage::{AlerterError, run};
