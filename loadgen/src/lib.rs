//! A virtual fleet with a ledger of acknowledgements, a verifier that compares the ledger with what is stored, and a
//! report; a raw client for benchmarks, and a feed of records straight into Kafka for what comes behind the gateway.
//!
//! This crate is a client of Penstock like any other: it never looks into the gateway or the writer, only at what they
//! promise to devices, to Kafka's readers and to ClickHouse's.

pub mod ailment;
pub mod blast;
pub mod cli;
mod clock;
mod device;
pub mod feed;
mod fleet;
mod generator;
mod ledger;
mod ledger_file;
mod mqtt;
mod probe;
mod report;
mod session;
mod source;
mod stations;
mod stats;
mod store;
mod tls;
pub mod verify;

pub use fleet::{Fleet, FleetError, FleetOptions};
pub use generator::INVALID_REASONS;
pub use ledger::{DeviceLedger, Entry, Ledger, Outcome, Totals};
pub use ledger_file::{LedgerFileError, LedgerWriter, read_ledger};
pub use mqtt::{Qos, Version};
pub use report::{Report, Verdict};
pub use stations::{Station, StationsError, read_stations, station_device};
pub use stats::{Count, Durations, Latency, Stats};
pub use store::{ClickHouseTarget, KafkaTarget};
pub use tls::{Identities, TlsError, anonymous, trust};
