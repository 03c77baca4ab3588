//! The gateway: MQTT 3.1.1 and 5 over TLS, where a PUBACK means that Kafka has the reading.
//!
//! The way of a connection: [`listener`] -> [`handshake`] -> [`connect`] -> [`connection`], and of a publish within it:
//! [`mqtt`] decodes, [`session`] decides with [`authorize`], the bridge submits, [`window`] holds the receipt until the
//! ack may go. The gateway keeps no readings: what is not confirmed by Kafka is the device's to send again.

pub mod authorize;
pub mod clients;
pub mod connect;
pub mod connection;
pub mod handshake;
pub mod listener;
pub mod metrics;
pub mod mqtt;
pub mod outcome;
mod run;
pub mod session;
pub mod tls;
pub mod window;

pub use metrics::Metrics;
pub use outcome::Outcome;
pub use run::{GatewayError, Parts, run};
