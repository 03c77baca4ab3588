//! Alert topics -> people: posts alerts to an Alertmanager and to a webhook, and commits offsets behind what was
//! delivered, silenced, acknowledged, or stored as a delivery failure.
//!
//! Never decides whether something is an alert, and never loses one: what cannot be delivered goes to
//! `alert.events.delivery-failures`.

pub mod active;
pub mod controls;
pub mod desk;
pub mod lanes;
pub mod ledger;
pub mod notice;
pub mod payload;
pub mod verdict;
