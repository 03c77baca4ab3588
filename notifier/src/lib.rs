//! Alert topics -> people: posts alerts to an Alertmanager and to a webhook, and commits offsets behind what was
//! delivered, silenced, acknowledged, or stored as a delivery failure.
//!
//! Never decides whether something is an alert, and never loses one: what cannot be delivered goes to
//! `alert.events.delivery-failures`. Each receiver has a reader of its own, with its own consumer group: one that hangs
//! holds up nobody else.

pub mod active;
pub mod controls;
mod deliver;
pub mod desk;
mod follow;
mod history;
mod http;
pub mod lanes;
pub mod ledger;
mod letters;
pub mod metrics;
pub mod notice;
pub mod payload;
mod reader;
mod run;
pub mod verdict;

pub use http::PosterError;
pub use metrics::Metrics;
pub use notice::Receiver;
pub use run::{NotifyError, group_of, is_configured, run};
