//! What the system tests stand on: a chain of real servers and real Penstock processes, devices that speak MQTT byte by
//! byte, and waiting for a state.
//!
//! Kafka and ClickHouse come from the devstack, Penstock is the binary itself, so that a test can kill any of them. Each
//! test has its own topics, database and ports. Everything here panics on failure: it is for tests only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

pub mod alert_chaos;
mod bystanders;
mod chain;
pub mod chaos;
mod device;
pub mod faults;
mod process;
mod reading;
mod wait;

pub use bystanders::Bystanders;
pub use chain::{Chain, Record, shared_stack};
pub use device::{Device, Received, Version, client_config, packet};
pub use process::Penstock;
pub use reading::{now_ms, reading};
pub use wait::{until, until_some};
