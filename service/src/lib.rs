//! What every role shares: configuration, telemetry, metrics, admin HTTP, shutdown and backoff.
//!
//! This crate knows no role and no protocol besides HTTP. Only [`telemetry::init`], [`shutdown::signals`] and
//! [`config::environment`] touch what belongs to the whole process; everything else lives on its arguments.

pub mod admin;
pub mod backoff;
pub mod condition;
pub mod config;
pub mod health;
pub mod http;
pub mod metrics;
pub mod shutdown;
pub mod suggest;
pub mod telemetry;
pub mod thread;
pub mod waiting;

pub use config::{Config, ConfigErrors, Loaded, Secret};
