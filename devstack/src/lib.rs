//! Real Kafka and real ClickHouse as child processes: started on free ports, ready when the call returns, and gone
//! when this process ends, however it ends. They can be killed with -9, paused, resumed and restarted on the same
//! ports and data.
//!
//! ```no_run
//! # fn main() -> Result<(), penstock_devstack::Error> {
//! let stack = penstock_devstack::Stack::start(&Default::default())?;
//! println!("{} {}", stack.kafka.brokers(), stack.clickhouse.http_url());
//! stack.clickhouse.kill_9()?;
//! stack.clickhouse.restart()?;
//! # Ok(())
//! # }
//! ```
//!
//! Both are fetched once into [`cache_dir`]. Servers of the user's own are used instead when [`KAFKA_ENV`] or
//! [`CLICKHOUSE_ENV`] names them. This crate never carries data, and no role depends on it.

mod cache;
mod checksum;
mod clickhouse;
pub mod dev;
mod dist;
mod error;
mod host;
mod host_command;
mod kafka;
mod managed;
mod ports;
mod probe;
mod process;
mod progress;
mod server;
mod spawn;
mod stack;
mod tools;
mod workdir;

pub use cache::cache_dir;
pub use clickhouse::{ClickHouse, ClickHouseOptions, ClickHousePorts};
pub use error::{Error, Result};
pub use host::clickhouse_host_main;
pub use host_command::HostCommand;
pub use kafka::{Jvm, Kafka, KafkaListener, KafkaOptions, KafkaPorts};
pub use managed::{Managed, Ports};
pub use ports::PortLease;
pub use progress::Progress;
pub use server::Stopped;
pub use spawn::spawn_bound;
pub use stack::{Stack, StackOptions};

/// Names a Kafka of the user's own (`host:port[,host:port...]`) to be used instead of starting one.
pub const KAFKA_ENV: &str = "PENSTOCK_TEST_KAFKA";
/// Names a ClickHouse of the user's own (`http://[user:password@]host:port`) to be used instead of starting one.
pub const CLICKHOUSE_ENV: &str = "PENSTOCK_TEST_CLICKHOUSE";
