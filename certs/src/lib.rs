//! A certificate authority for development and tests, and the identity in a device certificate.
//!
//! The authority signs with ECDSA P-256 and keeps its files in one folder: `ca.pem`, `ca.key`, `server.pem`,
//! `server.key`, `devices/<uuid>.pem`, `devices/<uuid>.key`. [`identity`] is what the gateway trusts a certificate for.
//! This crate never talks to the network and never verifies a chain: that is the TLS library's job.

mod authority;
pub mod cli;
mod describe;
mod error;
mod files;
mod identity;
mod provision;
mod serial;

pub use authority::{Authority, Credentials};
pub use describe::{Description, describe};
pub use error::CertsError;
pub use files::{CredentialFiles, Overwrite};
pub use identity::{IdentityError, identity};
pub use provision::{device_ids, provision_devices};
pub use serial::{ParseSerialError, Serial};

/// Days from now that a certificate may be valid at most: 100 years.
pub const DAYS_MAX: u32 = 36_525;
