//! The wire contract of Penstock: protobuf types, device identity, validation, topic names and the table of reasons.
//!
//! This crate never does I/O. Everything in it is decided from its arguments alone.

pub mod alert_json;
mod device_id;
mod reason;
pub mod topics;
pub mod validate;
pub mod wire;

pub use device_id::{DeviceId, ParseDeviceIdError};
pub use reason::Reason;
pub use validate::{Invalid, Limits, Window, check_reading};
pub use wire::ReadingView;

/// Types generated from `proto/penstock/v1/*.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/penstock.v1.rs"));
}
