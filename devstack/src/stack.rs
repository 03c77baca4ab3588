//! Both servers together. Never started one after the other: each waits for itself while the other starts.

use std::thread;

use crate::clickhouse::{ClickHouse, ClickHouseOptions};
use crate::error::{Error, Result};
use crate::kafka::{Kafka, KafkaOptions};

/// How to start a stack. The default is right for tests: temporary directories, free ports.
#[derive(Debug, Clone, Default)]
pub struct StackOptions {
    /// Kafka.
    pub kafka: KafkaOptions,
    /// ClickHouse.
    pub clickhouse: ClickHouseOptions,
}

/// A Kafka and a ClickHouse, both ready. Clones share the servers; they end with the last clone, or with this
/// process, even if it is killed with -9.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Kafka.
    pub kafka: Kafka,
    /// ClickHouse.
    pub clickhouse: ClickHouse,
}

impl Stack {
    /// Starts both at once and waits until both are ready: about 3 s when they are in the cache.
    ///
    /// # Errors
    /// The first error of [`Kafka::start`] and [`ClickHouse::start`]; the other server is ended.
    pub fn start(options: &StackOptions) -> Result<Self> {
        let (kafka, clickhouse) = thread::scope(|scope| {
            let kafka = scope.spawn(|| Kafka::start(&options.kafka));
            let clickhouse = ClickHouse::start(&options.clickhouse);
            (kafka.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), clickhouse)
        });
        Ok(Self { kafka: kafka?, clickhouse: clickhouse? })
    }

    /// [`Stack::start`] for async code: it blocks another thread.
    ///
    /// # Errors
    /// As [`Stack::start`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start_async(options: StackOptions) -> Result<Self> {
        match tokio::task::spawn_blocking(move || Self::start(&options)).await {
            Ok(stack) => stack,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down: nobody reads this.
                Err(_) => Err(Error::NotRunning { server: "the stack", operation: "start" }),
            },
        }
    }
}
