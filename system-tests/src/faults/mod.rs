//! What fault suites are made of: a plan of faults from a seed, hands that do them, networks that can be cut, and a run
//! that does a round of faults under load, heals everything and asks an oracle, until all rounds are done or one found
//! something.
//!
//! A suite brings its kinds of faults ([`plan::Kind`]), what they are done to ([`suite::Site`]), and load and oracle
//! ([`suite::Suite`]): [`crate::chaos`] for rows, [`crate::alert_chaos`] for alerts.

pub mod hands;
pub mod node;
pub mod plan;
pub mod program;
pub mod proxy;
pub mod suite;
pub mod tally;
pub mod timeline;
